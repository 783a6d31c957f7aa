# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which class of one list is which class of another: decided by name, never by position."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import CheckpointError

Synonyms = Mapping[str, str]
"""Name without case and separators (``squeezed``) -> a word that all names of its group share."""


@dataclass(frozen=True)
class ClassMap:
    """For every class of a model the row of a checkpoint's class heads that stands for it."""

    source: tuple[str, ...]
    """Class names of the checkpoint, in the order of its rows."""
    target: tuple[str, ...]
    """Class names of the model, in the order of its rows."""
    rows: tuple[int | None, ...]
    """One entry per target class: the source row, or None where the checkpoint has no such class."""

    @property
    def identical(self) -> bool:
        """Whether both lists name the same classes in the same order, so that nothing has to move."""
        return len(self.source) == len(self.target) and self.rows == tuple(range(len(self.target)))

    @property
    def new(self) -> list[str]:
        """Target classes that the checkpoint does not know."""
        return [name for name, row in zip(self.target, self.rows) if row is None]

    def to_dict(self) -> dict[str, object]:
        """Plain data for a JSON file: the classes of the model, and of each the class and row of the checkpoint."""
        taken = [None if row is None else self.source[row] for row in self.rows]
        return {"model": list(self.target), "source": taken, "source_rows": list(self.rows)}

    def pairs(self) -> list[tuple[str, str, int]]:
        """Target class, source class and source row of every mapped class, in target order."""
        return [(name, self.source[row], row) for name, row in zip(self.target, self.rows) if row is not None]


def normalised(name: str) -> str:
    """A class name without what does not distinguish classes: case, and which separator stands between words.

    >>> normalised(" Traffic_Light") == normalised("traffic-light")
    True
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_-]+", " ", text).strip() or text


def squeezed(name: str) -> str:
    """A class name without case and without separators.

    >>> squeezed("Potted Plant") == squeezed("pottedplant")
    True
    """
    return normalised(name).replace(" ", "")


def map_classes(
    source: Sequence[str],
    target: Sequence[str],
    synonyms: Synonyms,
    *,
    source_place: str = "the checkpoint",
) -> ClassMap:
    """Find every target class in the source list.

    A class of equal name comes first, then one that differs in case and separators only, then in where words are
    divided, then a synonym. Target classes that differ in case or separators only, such as the chess pieces K and k,
    are told apart by just that, so each takes a row of exactly its name or starts anew. One source class may stand for
    several others; two source classes for one is an error.

    Args:
        source, target: class names in row order.
        synonyms: names that mean the same.
        source_place: where that list comes from, for messages.

    Raises:
        CheckpointError: two source classes fit one target class equally well.
    """
    if tuple(source) == tuple(target):
        return ClassMap(tuple(source), tuple(target), tuple(range(len(target))))
    keys: tuple[Callable[[str], str], ...] = (
        str, normalised, squeezed, lambda name: synonyms.get(squeezed(name), squeezed(name)),
    )  # fmt: skip
    levels = [(key, _rows_by(key, source)) for key in keys]
    alike = Counter(map(normalised, target))
    rows = [
        _row_of(name, source, levels if alike[normalised(name)] == 1 else levels[:1], source_place) for name in target
    ]
    return ClassMap(tuple(source), tuple(target), tuple(rows))


def _rows_by(key: Callable[[str], str], names: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(key(name), []).append(row)
    return rows


def _row_of(
    name: str, source: Sequence[str], levels: Sequence[tuple[Callable[[str], str], dict[str, list[int]]]], place: str
) -> int | None:
    for key, table in levels:
        rows = table.get(key(name), [])
        if len(rows) == 1:
            return rows[0]
        if rows:
            raise CheckpointError(
                f"the class {name!r} could take the row of {' or of '.join(repr(source[row]) for row in rows)}, "
                f"which {place} both has: name it like one of them in the data, or set class_synonyms to a table in "
                "which they do not share a group"
            )
    return None
