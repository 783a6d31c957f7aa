# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from a file into a model, with a report of what became of every tensor."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from . import listed, other_family, read_checkpoint, weights_in
from .remedies import COCO_IDS, class_counts, remedies_for

_CLASSES = 100
"""Classes that the table names in one line: COCO's 80 fit. The JSON has all."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_STEP_COUNTER = "num_batches_tracked"


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

    @property
    def taken(self) -> list[str | None]:
        """For every target class the checkpoint's class whose row it takes."""
        return [None if row is None else self.source[row] for row in self.rows]


def load_weights(
    model: nn.Module,
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any],
    strict: bool = True,
    *,
    classes: ClassMap | None = None,
    source: str | None = None,
) -> LoadReport:
    """Load weights into a model: official D-FINE checkpoints, ours, bare state dicts, safetensors.

    Of a checkpoint the EMA weights (``ema.module``) are taken, else ``model``. Buffers that a module lists in its class
    attribute ``rebuilt_buffers`` keep the model's own values (anchors for its own input size, for example).

    Args:
        model: changed in place; unchanged when an error is raised.
        path_or_state_dict: ``.pth``, ``.pt`` or ``.safetensors`` file, or its content.
        strict: refuse a file that does not fit entirely; ``False`` loads what fits by name and shape.
        classes: copy the rows of class heads by name (with ``strict=False``); None = load heads of equal shape.
        source: name of the content for the report and messages; None = the path, or ``state dict``.

    Raises:
        CheckpointError: the file cannot be read, is no checkpoint, does not fit (strict), or nothing of it fits.
    """
    is_content = isinstance(path_or_state_dict, Mapping)
    source = source or ("state dict" if is_content else str(path_or_state_dict))
    content = path_or_state_dict if isinstance(path_or_state_dict, Mapping) else read_checkpoint(path_or_state_dict)
    state = weights_in(content, source)
    fitting, report = compare(model, state, source, classes)
    if strict and not report.complete:
        raise CheckpointError(_misfit(report))
    if not fitting:
        raise CheckpointError(nothing_fits(model, state, source))
    model.load_state_dict(fitting, strict=False)
    return report


def nothing_fits(model: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    """Error text for a file of which no tensor can be used."""
    return (
        f"{source}: none of its {len(state)} tensors fits {type(model).__name__}, for example "
        f"{listed(list(state), 3)}{other_family(state, model)}: check that the checkpoint belongs to this "
        "model"
    )


def compare(
    model: nn.Module, state: Mapping[str, Tensor], source: str, classes: ClassMap | None = None
) -> tuple[dict[str, Tensor], LoadReport]:
    """Tensors that fit, already in the model's types, and the report; the model is only read.

    Args:
        model: the model.
        state: from :func:`weights_in`.
        source: name of the file for the report.
        classes: which row of a class head goes where; None, or an identical list = heads are taken as they are.
    """
    own, rebuilt = model.state_dict(), _rebuilt_buffers(model)
    by_class = class_tensors(model) if classes is not None and not classes.identical else {}
    extra = [key for key in state if key not in own and key not in rebuilt]
    unexpected = [key for key in extra if not is_counter(key)]
    report = LoadReport(source, unexpected=unexpected, dropped=len(extra) - len(unexpected), classes=classes)
    report.family = other_family(state, model)
    fitting: dict[str, Tensor] = {}
    for key, mine in own.items():
        if key in rebuilt or (is_counter(key) and key not in state):
            report.kept.append(key)
        elif key not in state:
            report.missing.append(key)
        elif classes is not None and key in by_class and _has_rows_of(mine, state[key], by_class[key], classes):
            fitting[key] = moved_rows(mine, state[key].to(mine.dtype), classes)
            total = len(classes.target)
            report.mapped.append(MappedRows(key, total - len(classes.new), total, by_class[key]))
        elif (reason := _misfit_of(mine, state[key], key in by_class)) is not None:
            report.mismatched.append(Mismatch(key, tuple(state[key].shape), tuple(mine.shape), reason))
        else:
            fitting[key] = state[key].to(mine.dtype)
            report.loaded.append(key)
    report.remedies = remedies_for(model, report, state)
    return fitting, report


def _has_rows_of(mine: Tensor, theirs: Tensor, extra: int, classes: ClassMap) -> bool:
    counts = (len(classes.target) + extra,), (len(classes.source) + extra,)
    return mine.shape[1:] == theirs.shape[1:] and (mine.shape[:1], theirs.shape[:1]) == counts


def _misfit_of(mine: Tensor, theirs: Tensor, counts_classes: bool) -> str | None:
    """Why a tensor cannot be taken as it is."""
    if mine.shape != theirs.shape:
        return "shape"
    if counts_classes:
        return "its rows are not the classes of the file"
    return None if _fits_exactly(theirs, mine.dtype) else f"{theirs.dtype} values that {mine.dtype} cannot hold"


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


def normalised(name: str) -> str:
    """A class name without what does not distinguish classes: case, and which separator stands between words.

    >>> normalised(" Traffic_Light") == normalised("traffic-light")
    True
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_-]+", " ", text).strip() or text


def is_counter(key: str) -> bool:
    """BatchNorm's batch counter: no weight, and absent where a norm is frozen."""
    return key.rsplit(".", 1)[-1] == _STEP_COUNTER


def _rebuilt_buffers(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(type(module), "rebuilt_buffers", ())
    }


def _fits_exactly(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether a type can hold a value; between whole and floating-point numbers only where nothing is lost.

    Official files hold ``reg_scale`` as int64 or float32, depending on how its YAML wrote the number.
    """
    if value.dtype == dtype or (value.is_floating_point() and dtype.is_floating_point):
        return True
    return torch.equal(value.to(dtype).to(value.dtype), value)


def _misfit(report: LoadReport) -> str:
    """Error text of a strict load."""
    parts = [f"{report.source} does not fit the model ({len(report.loaded)} tensors would){report.family}"]
    parts += report.remedies
    for what, items in (
        ("missing in the file", report.missing),
        ("not in the model", report.unexpected),
        ("fitting by name only", [f"{misfit.name} ({misfit})" for misfit in report.mismatched]),
    ):
        if items:
            parts.append(f"{len(items)} {what}: {listed(items)}")
    if (classes := class_counts(report.mismatched)) is not None:
        parts.append(
            f"the file is for {classes[0]} classes and the model has {classes[1]}: to fine-tune on other classes use "
            "-t (strict=False), which keeps what fits and copies class rows by name; else set num_classes"
            + COCO_IDS.get(classes, "")
        )
    elif not report.remedies:
        parts.append("use the config the checkpoint was trained with, or -t (strict=False) to keep only what fits")
    return "; ".join(parts)


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


@dataclass
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
    remedies: list[str] = field(default_factory=list)
    """What file and model are, and what to do, where the model knows."""
    family: str = ""
    """A clause that names the family of the file's tensors, where the model is of another."""

    @property
    def complete(self) -> bool:
        """Whether file and model fit each other entirely."""
        return not (self.missing or self.unexpected or self.mismatched or self.mapped)

    @property
    def initialised(self) -> list[str]:
        """Tensors of the model that start as they were: not in the file, not fitting, or of new classes only."""
        nothing = [rows.name for rows in self.mapped if rows.rows == 0]
        return [*self.missing, *(misfit.name for misfit in self.mismatched), *nothing]

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
        for rows in self.mapped:
            tensors[rows.name] |= {"rows": rows.rows, "of": rows.total}
        rows_of = None
        if (classes := self.classes) is not None:
            rows_of = {"model": [*classes.target], "source": classes.taken, "source_rows": [*classes.rows]}
        return {
            "source": self.source,
            "summary": self.summary(),
            "notes": list(self.notes),
            "classes": rows_of,
            "tensors": dict(sorted(tensors.items())),
        }

    def _statuses(self) -> dict[str, list[tuple[str, str]]]:
        """Everything but what was loaded as it is: status, then tensor and detail."""
        new = [(rows.name, f"none of its {rows.total} classes is in the file") for rows in self.mapped if not rows.rows]
        misfits = [(misfit.name, str(misfit)) for misfit in self.mismatched]
        return {
            "mapped": [(rows.name, str(rows)) for rows in self.mapped if rows.rows],
            "initialised": [*new, *misfits, *((name, "not in the file") for name in self.missing)],
            "unused": [(name, "not in the model") for name in self.unexpected],
            "kept": [(name, "") for name in self.kept],
        }

    def _class_rows(self) -> list[tuple[str, str]]:
        """Which class starts from which: renamed ones line by line, those of equal name in one."""
        if self.classes is None or self.classes.identical:
            return []
        columns = zip(self.classes.target, self.classes.taken, self.classes.rows)
        pairs = [(ours, theirs, row) for ours, theirs, row in columns if theirs is not None]
        same = [ours for ours, theirs, _ in pairs if normalised(ours) == normalised(theirs)]
        rows = [("same class", listed(same, _CLASSES))] if same else []
        rows += [("class", f"{ours} <- {theirs} (row {row})") for ours, theirs, row in pairs if ours not in same]
        return rows + ([("new class", listed(self.classes.new, _CLASSES))] if self.classes.new else [])


def _by_part(names: Iterable[str]) -> list[str]:
    """How many tensors of each top-level part: ``backbone: 412 tensors``."""
    counts = Counter(name.split(".")[0] for name in names)
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
        spans = [str(min(at)) + (f"..{max(at)}" if min(at) < max(at) else "") for at in zip(*numbers)]
        count = f" ({len(numbers)} tensors)" if len(numbers) > 1 else ""
        lines.append(pattern.format(*spans) + count + (f": {detail}" if detail else ""))
    return lines
