# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, TypeVar

import pytest

from isdfine.core.registry import convert, describe, fits, is_plain, schema_of

T = TypeVar("T")
Pixels = NewType("Pixels", int)


class Part:
    pass


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        str | None,
        list[int],
        Sequence[list[str]],
        dict[str, Any],
        Literal["a"],
        Path,
        T,
        Pixels,
        tuple,
        object,
        Any,
    ],
)
def test_plain_annotations(annotation: Any) -> None:
    assert is_plain(annotation)


@pytest.mark.parametrize(
    "annotation", [Part, Part | None, list[Part], dict[str, Part], Callable[[], int], int | Part, Annotated[Part, "x"]]
)
def test_component_annotations(annotation: Any) -> None:
    assert not is_plain(annotation)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, True),
        (1.0, int, False),
        (float("inf"), float, False),
        (float("nan"), float | None, False),
        (True, int, False),
        (True, float, False),
        (1, bool, False),
        (None, int, False),
        (None, int | None, True),
        ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False),
        ([1, 2, 3], tuple[int, ...], True),
        ([1, "a"], list[int], False),
        ("ab", Sequence[str], False),
        ({"a": 1}, dict[str, float], True),
        ({"a": "b"}, Mapping[str, float], False),
        ({1: "a"}, dict[int, str], True),
        (1, Literal[True], False),
        ("b", Literal["a", "b"], True),
        ("x/y", Path, True),
        (3, Pixels, True),
        ([[1, 2]], list[list[int]], True),
        (3, int | Sequence[int], True),
    ],
)
def test_fits(value: Any, annotation: Any, expected: bool) -> None:
    assert fits(value, annotation) is expected


def test_convert_makes_tuples_and_paths_and_leaves_numbers() -> None:
    assert convert([[1, 2], [3, 4]], tuple[tuple[int, int], ...]) == ((1, 2), (3, 4))
    assert convert({"a": ["b"]}, dict[str, tuple[str, ...]]) == {"a": ("b",)}
    assert convert("a/b", Path | None) == Path("a/b")
    assert isinstance(convert(4, float), int)
    assert convert([1, 2], int | Sequence[int]) == [1, 2]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int | None, "int or None"),
        (None | Literal["a", "b"], "one of 'a', 'b' or None"),
        (list[int], "list of int"),
        (tuple[float, float], "list of 2 values (float, float)"),
        (dict[str, float], "mapping to float"),
        (Part, "component (Part)"),
        (Path, "path"),
        (list, "list"),
        (Any, "any value"),
    ],
)
def test_describe(annotation: Any, words: str) -> None:
    assert describe(annotation) == words


def test_schema_reads_the_constructor() -> None:
    class Child:
        def __init__(self, own: int, /, part: Part, size: int = 3, *more: int, name: str = None, **rest: Any) -> None:  # type: ignore[assignment]  # noqa: RUF013
            pass

    schema = schema_of(Child)
    assert list(schema.parameters) == ["part", "size", "name"]
    assert schema.open
    assert schema.parameters["part"].is_component
    assert schema.parameters["part"].required
    assert not schema.parameters["size"].required
    assert fits(None, schema.parameters["name"].annotation)
    assert schema_of(Part).parameters == {}


class Base:
    def __init__(self, part: Part, num_classes: int, alpha: float = 0.5) -> None:
        self.given = (part, num_classes, alpha)


class Kept(Base):
    def __init__(self, extra: int = 1, **options: Any) -> None:
        super().__init__(Part(), **options)
        self.extra = extra


class Again(Kept):
    def __init__(self, *, alpha: float = 0.9, **options: Any) -> None:
        super().__init__(alpha=alpha, **options)


def test_what_a_constructor_passes_on_are_the_parameters_of_the_one_that_it_inherits() -> None:
    schema = schema_of(Again)
    assert {name: parameter.default for name, parameter in schema.parameters.items() if not parameter.inherited} == {
        "alpha": 0.9
    }
    assert set(schema.parameters) == {"part", "num_classes", "alpha", "extra"}
    assert not schema.open  # a misspelled argument is seen
    assert not any(parameter.required for parameter in schema.parameters.values())  # the class may give them itself
    assert schema_of(Base).parameters["num_classes"].required
    assert not schema_of(Part).open
    assert schema_of(type("Loose", (), {"__init__": lambda self, **options: None})).open
