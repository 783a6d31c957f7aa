# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Class names, original category ids and the contiguous index between them: one object for data, models and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.errors import DataError, one_line
from ..core.registry import REGISTRY
from .dataset.coco_fields import whole_number
from .dataset.problems import Problems

_SHOWN = 100
"""Classes that a message lists before it abbreviates: COCO's 80 fit, Objects365's 365 do not."""
_UNUSED = "(unused "


@dataclass(frozen=True)
class LabelSpace:
    """C classes and their original ids; the position is the label 0..C-1 that models see.

    Readers of annotation files put the ids in ascending order, unless the user fixed another order by names. Names are
    printed, drawn and written line by line: control characters in them (of a foreign checkpoint) become question marks.

    Raises:
        DataError: unequal lengths, or an id that occurs twice.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(one_line, self.names)))
        if len(self.names) != len(self.category_ids):
            raise DataError(
                f"{len(self.names)} class names for {len(self.category_ids)} category ids: give one name per id"
            )
        if len(set(self.category_ids)) != len(self.category_ids):
            raise DataError(f"category ids {self.category_ids} are not unique: give every class an id of its own")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_coco(
        cls, content: Mapping[str, Any], place: str = "annotations", problems: Problems | None = None
    ) -> LabelSpace:
        """The categories of a COCO file, whatever their order in it.

        Args:
            content: the parsed JSON; only ``categories`` is read.
            place: file name for messages.
            problems: where to report; None raises.

        Raises:
            DataError: a category without integer id or name, an id or a name that occurs twice, no categories.
        """
        problems = problems or Problems()
        named: dict[int, str] = {}
        for category in content["categories"]:
            entry = category if isinstance(category, Mapping) else {}
            number, name = whole_number(entry.get("id")), str(entry.get("name"))
            known = number is not None and type(entry.get("name")) in (str, int)
            if not known or type(entry["id"]) is not int:
                text = f"category {category!r} needs an integer id and a name"
                if known:
                    problems.mend("odd entry", place, text)
                else:
                    problems.report("bad class", place, text)
            if number is None or not known:
                continue
            if number in named:
                problems.report(
                    "bad class", place, f"category id {number} occurs twice ({named[number]!r} and {name!r}): keep one"
                )
                continue
            named[number] = name
        if not named:
            problems.report("bad class", place, "the list of categories is empty: add {id, name} for every class")
        ids = sorted(named)
        check_names({number: named[number] for number in ids}, place, problems)
        return cls(tuple(named[number] for number in ids), tuple(ids))

    @classmethod
    def from_names(cls, names: Sequence[str], place: str, problems: Problems | None = None) -> LabelSpace:
        """Classes that are numbered by their place in a list: label, id and position are the same.

        Raises:
            DataError: no names, or names that occur twice.
        """
        problems = problems or Problems()
        if not names:
            problems.report("bad class", place, "the list of class names is empty: give one name per class")
        check_names(dict(enumerate(names)), place, problems)
        return cls(tuple(names), tuple(range(len(names))))

    def with_unused_ids(self) -> LabelSpace:
        """The label space in which the label of a class is its id, as in official files with max id + 1 classes.

        Ids that no class has are classes named ``(unused 0)``, ...: nothing is annotated with them, so they take no
        part in metrics, and their rows learn to stay silent.

        Raises:
            DataError: an id below 0.
        """
        known = dict(zip(self.category_ids, self.names))
        if min(known, default=0) < 0:
            raise DataError(f"category id {min(known)} cannot be a label: ids as labels start at 0")
        ids = tuple(range(max(known, default=-1) + 1))
        return LabelSpace(tuple(known.get(number, f"{_UNUSED}{number})") for number in ids), ids)

    def in_order(self, classes: Sequence[str], place: str, problems: Problems | None = None) -> LabelSpace:
        """The classes of these names with labels in their order, whatever their ids; others are left out.

        Raises:
            DataError: a name that the file does not have, or one twice.
        """
        problems = problems or Problems()
        ids = dict(zip(self.names, self.category_ids))
        unknown = [name for name in classes if name not in ids]
        if unknown or not classes or len(set(classes)) != len(classes):
            text = f"classes: the file's classes are {self.describe()}; unknown: {unknown or 'none'}: give each once"
            problems.report("bad class", place, text)
            return self
        return LabelSpace(tuple(classes), tuple(ids[name] for name in classes))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for checkpoints and exports; ``from_dict`` reads it back to an equal object."""
        return {"names": list(self.names), "category_ids": list(self.category_ids)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSpace:
        """Read what ``to_dict`` wrote.

        Raises:
            KeyError, TypeError, DataError: something else.
        """
        names, ids = tuple(data["names"]), tuple(data["category_ids"])
        if not all(isinstance(name, str) for name in names) or not all(type(number) is int for number in ids):
            raise TypeError("class names must be texts, and category_ids whole numbers")
        return cls(names, ids)

    def alike(self) -> list[tuple[str, str]]:
        """Pairs of names that differ in case and spaces only: two classes, as the chess pieces K and k, or one by
        mistake."""
        first: dict[str, str] = {}
        pairs = [(first.setdefault(" ".join(name.split()).casefold(), name), name) for name in self.names]
        return [(value, other) for value, other in pairs if value != other]

    def describe(self) -> str:
        """``id=name`` of every class, abbreviated for long lists."""
        shown = [f"{number}={name}" for number, name in zip(self.category_ids[:_SHOWN], self.names)]
        return ", ".join([*shown, f"... ({len(self) - _SHOWN} more)"] if len(self) > _SHOWN else shown)


def is_unused(name: str) -> bool:
    """Whether a name stands for an id that no class has (``LabelSpace.with_unused_ids``)."""
    return name.startswith(_UNUSED)


def check_names(names: Mapping[int, str], place: str, problems: Problems) -> None:
    """Refuse a name that occurs twice, and one with control characters.

    Args:
        names: by id.
        place: file for messages.
    """
    first: dict[str, int] = {}
    for number, name in names.items():
        if one_line(name) != name:
            text = f"category name {name!r} (id {number}) holds a line break or another control character: rename it"
            problems.report("bad class", place, text)
        if (other := first.setdefault(name, number)) != number:
            problems.report(
                "bad class", place, f"category name {name!r} occurs twice (ids {other} and {number}): rename one"
            )


class ConfigReader(Protocol):
    """What is needed of a config: plain values by dotted key."""

    def get(self, dotted: str, default: Any = None) -> Any: ...


def num_classes_of(config: ConfigReader) -> int | None:
    """Class count of the training data that a config names (validation data where it has no training data).

    The data set's class is asked: its ``label_space_of`` reads no more of the files than it needs.

    Returns:
        None where the config names no data set that knows its classes.

    Raises:
        DataError: the file that says the classes is missing or cannot be used.
    """
    for loader in ("train_dataloader", "val_dataloader"):
        section = config.get(f"{loader}.dataset")
        section = {"type": section} if isinstance(section, str) else section
        if not isinstance(section, Mapping) or section.get("type") not in REGISTRY:
            continue
        name = section["type"]
        label_space_of = getattr(REGISTRY[name], "label_space_of", None)
        if label_space_of is None:
            continue
        defaults = {"remap_mscoco_category": config.get("remap_mscoco_category"), **(config.get(name) or {})}
        space: LabelSpace | None = label_space_of({**defaults, **section})
        if space is not None:
            return len(space)
    return None


_MSCOCO_TABLE = """
    1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat, 10 traffic light, 11 fire
    hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22
    elephant, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase, 34 frisbee,
    35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, 41 skateboard, 42 surfboard,
    43 tennis racket, 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl, 52 banana, 53 apple,
    54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake, 62 chair, 63 couch, 64
    potted plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard, 77 cell
    phone, 78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 84 book, 85 clock, 86 vase, 87 scissors, 88
    teddy bear, 89 hair drier, 90 toothbrush
"""


def _mscoco() -> LabelSpace:
    entries = [entry.strip().split(" ", 1) for entry in " ".join(_MSCOCO_TABLE.split()).split(",")]
    return LabelSpace(tuple(name for _, name in entries), tuple(int(number) for number, _ in entries))


MSCOCO = _mscoco()
"""The 80 classes of COCO detection with their original ids, which leave gaps up to 90."""


def mscoco_rows(config: ConfigReader, count: int) -> LabelSpace | None:
    """The classes of heads with so many rows, where a config says that labels are COCO's; None: not known.

    80 rows are the classes in the order of their ids; with 91, as in the checkpoints of DETR and its successors, the
    row of a class is its id.
    """
    known = (MSCOCO, MSCOCO.with_unused_ids()) if config.get("remap_mscoco_category") else ()
    return next((space for space in known if len(space) == count), None)
