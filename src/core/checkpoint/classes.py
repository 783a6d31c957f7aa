# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which class of one list is which class of another, and what became of every tensor when weights were loaded."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError
from . import listed

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
        return len(self.source) == len(self.target) and all(row == one for one, row in enumerate(self.rows))

    @property
    def new(self) -> list[str]:
        """Target classes that the checkpoint does not know."""
        return [name for name, row in zip(self.target, self.rows) if row is None]

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
        str,
        normalised,
        squeezed,
        lambda name: synonyms.get(squeezed(name), squeezed(name)),
    )
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
        found = table.get(key(name), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"the class {name!r} could take the row of {' or of '.join(repr(source[row]) for row in found)}, "
                f"which {place} both has: name it like one of them in the data, or set class_synonyms to a table in "
                "which they do not share a group"
            )
    return None


def class_tensors(model: nn.Module) -> dict[str, int]:
    """State-dict keys whose first axis is classes, with the rows behind the classes (padding) of each.

    A module says so itself: its ``class_rows`` maps names of its parts to that number of extra rows.
    """
    parts: dict[str, int] = {}
    for prefix, module in model.named_modules():
        declared: Any = getattr(module, "class_rows", None)
        if isinstance(declared, Mapping):
            parts |= {f"{prefix}.{name}." if prefix else f"{name}.": extra for name, extra in declared.items()}
    return {key: extra for key in model.state_dict() for part, extra in parts.items() if key.startswith(part)}


def count_classes(state: Mapping[str, Tensor], extra_rows: Mapping[str, int]) -> int | None:
    """Number of classes of a checkpoint: what most of its class tensors say.

    Args:
        state: the checkpoint's tensors.
        extra_rows: from :func:`class_tensors`.

    Returns: None where the checkpoint has no class tensors.
    """
    counts = Counter(
        state[key].shape[0] - extra for key, extra in extra_rows.items() if key in state and state[key].dim() > 0
    )
    return max(counts, key=lambda rows: (counts[rows], rows)) if counts else None


def moved_rows(own: Tensor, theirs: Tensor, classes: ClassMap) -> Tensor:
    """A model's tensor with the rows that the checkpoint knows; other rows, and padding, keep the model's values.

    Args:
        own: (C + extra, ...) the model's tensor.
        theirs: (C_source + extra, ...) in the same type.
    """
    moved = own.clone()
    for row, source in enumerate(classes.rows):
        if source is not None:
            moved[row] = theirs[source].to(own.device)
    return moved


_CLASSES = 100
"""Classes that the table names in one line: COCO's 80 fit. The JSON has all."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class Mismatch:
    """A tensor whose shape or type in the file does not fit the model's."""

    name: str
    file_shape: tuple[int, ...]
    model_shape: tuple[int, ...]
    reason: str = "shape"

    def __str__(self) -> str:
        if self.reason != "shape":
            return self.reason
        return f"{list(self.file_shape)} in the file, {list(self.model_shape)} in the model"


@dataclass(frozen=True)
class MappedRows:
    """A tensor with one row per class, of which some were copied by class name and the others start anew."""

    name: str
    rows: int
    """Copied."""
    total: int
    """Classes of the model."""
    padding: int = 0
    """Further rows that stand for no class and keep the model's values."""

    def __str__(self) -> str:
        behind = " (its padding row stays)" if self.padding else ""
        return f"{self.rows} of {self.total} rows by class name{behind}"


@dataclass(frozen=True)
class LoadReport:
    """What :func:`~isdfine.load_weights` did, by state-dict key."""

    source: str
    """File name, or ``state dict``."""
    loaded: list[str] = field(default_factory=list)
    mapped: list[MappedRows] = field(default_factory=list)
    """Class heads whose rows were copied by class name; rows of new classes keep the model's values."""
    missing: list[str] = field(default_factory=list)
    """In the model only: they keep their values."""
    unexpected: list[str] = field(default_factory=list)
    """In the file only: unused."""
    mismatched: list[Mismatch] = field(default_factory=list)
    """In both, but not fitting: the model keeps its values."""
    kept: list[str] = field(default_factory=list)
    """Tables that a model computes for itself, and batch counters the file lacks: never taken from a file."""
    dropped: int = 0
    """Batch counters in the file of norms that are frozen in the model."""
    classes: ClassMap | None = None
    """Which class took which row, where rows were mapped by name."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know about this load."""

    @property
    def in_file(self) -> list[str]:
        """Names of the tensors that the file has (and that the model might take)."""
        return [*self.loaded, *self.unexpected, *self._in_both]

    @property
    def in_model(self) -> list[str]:
        """Names of the tensors that the model might take from a file."""
        return [*self.loaded, *self.missing, *self._in_both]

    @property
    def _in_both(self) -> list[str]:
        """Names of the tensors of both that are not loaded as they are."""
        return [*(misfit.name for misfit in self.mismatched), *(rows.name for rows in self.mapped)]

    @property
    def complete(self) -> bool:
        """Whether file and model fit each other entirely."""
        return not (self.missing or self.unexpected or self.mismatched or self.mapped)

    @property
    def initialised(self) -> list[str]:
        """Tensors of the model that start as they were: not in the file, not fitting, or of new classes only."""
        nothing = [one.name for one in self.mapped if one.rows == 0]
        return [*self.missing, *(one.name for one in self.mismatched), *nothing]

    def summary(self) -> str:
        """One line for a log."""
        mapped = f"{len(self.mapped)} by class name, " if self.mapped else ""
        return (
            f"{self.source}: {len(self.loaded)} tensors loaded, {mapped}{len(self.mismatched)} of another shape, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, {len(self.kept)} kept"
        )

    def table(self) -> str:
        """The summary, then what became of the tensors (like ones in one line), then of the classes."""
        rows = [("loaded", part) for part in _by_part(self.loaded)]
        for status, items in self._statuses().items():
            rows += [(status, line) for line in _alike(items)]
        rows += self._class_rows()
        rows += [("note", text) for text in self.notes]
        return "\n".join([self.summary(), *(f"  {what:<12} {which}" for what, which in rows)])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file: the status of every tensor, and the source row of every class."""
        tensors: dict[str, Any] = {name: {"status": "loaded"} for name in self.loaded}
        for status, items in self._statuses().items():
            for name, detail in items:
                tensors[name] = {"status": status, **({"detail": detail} if detail else {})}
        for one in self.mapped:
            tensors[one.name] |= {"rows": one.rows, "of": one.total}
        return {
            "source": self.source,
            "summary": self.summary(),
            "notes": list(self.notes),
            "classes": None if self.classes is None else _classes(self.classes),
            "tensors": dict(sorted(tensors.items())),
        }

    def _statuses(self) -> dict[str, list[tuple[str, str]]]:
        """Everything but what was loaded as it is: status, then tensor and detail."""
        return {
            "mapped": [(one.name, str(one)) for one in self.mapped if one.rows],
            "initialised": [
                *((one.name, f"none of its {one.total} classes is in the file") for one in self.mapped if not one.rows),
                *((one.name, str(one)) for one in self.mismatched),
                *((name, "not in the file") for name in self.missing),
            ],
            "unused": [(name, "not in the model") for name in self.unexpected],
            "kept": [(name, "") for name in self.kept],
        }

    def _class_rows(self) -> list[tuple[str, str]]:
        """Which class starts from which: renamed ones line by line, those of equal name in one."""
        if self.classes is None or self.classes.identical:
            return []
        pairs = self.classes.pairs()
        same = [ours for ours, theirs, _ in pairs if normalised(ours) == normalised(theirs)]
        rows = [("same class", listed(same, _CLASSES))] if same else []
        rows += [("class", f"{ours} <- {theirs} (row {row})") for ours, theirs, row in pairs if ours not in same]
        return rows + ([("new class", listed(self.classes.new, _CLASSES))] if self.classes.new else [])


def _classes(mapping: ClassMap) -> dict[str, Any]:
    taken = [None if row is None else mapping.source[row] for row in mapping.rows]
    return {"model": list(mapping.target), "source": taken, "source_rows": list(mapping.rows)}


def _by_part(names: Iterable[str]) -> list[str]:
    """How many tensors of each top-level part: ``backbone: 412``."""
    counts: dict[str, int] = {}
    for name in names:
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + 1
    return [f"{part}: {count} tensor{'s' if count > 1 else ''}" for part, count in counts.items()]


def _alike(items: Iterable[tuple[str, str]]) -> list[str]:
    """One line for tensors that differ in a number of their names only: ``dec_score_head.0..5.bias (6): 3 of 7``."""
    groups: dict[tuple[str, str], list[list[int]]] = {}
    for name, detail in items:
        groups.setdefault((_NUMBER.sub("{}", name.replace("{", "{{").replace("}", "}}")), detail), []).append(
            [int(number) for number in _NUMBER.findall(name)]
        )
    lines = []
    for (pattern, detail), numbers in groups.items():
        spans = [f"{min(one)}..{max(one)}" if min(one) < max(one) else str(one[0]) for one in zip(*numbers)]
        count = f" ({len(numbers)} tensors)" if len(numbers) > 1 else ""
        lines.append(pattern.format(*spans) + count + (f": {detail}" if detail else ""))
    return lines
