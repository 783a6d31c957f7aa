# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: what of a checkpoint a run starts from, and whose classes the rows of its heads are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ..core.checkpoint.weights import (
    ClassMap,
    LoadReport,
    class_tensors,
    compare,
    count_classes,
    is_counter,
    normalised,
    nothing_fits,
)
from ..core.config.settings import RunSettings
from ..core.errors import CheckpointError
from ..data.classes import BUILT_IN, Synonyms, class_list, squeezed, synonyms
from ..data.label_space import LabelSpace, is_unused
from ..load import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassTables:
    """What a run says about the classes of the checkpoint that it starts from."""

    name: str | None
    """The setting ``tuning_classes``."""
    given: LabelSpace | None
    """The list that it names."""
    synonyms: Synonyms

    @classmethod
    def of(cls, settings: RunSettings) -> ClassTables:
        """Read what the settings name, so that a mistyped name is found before anything takes long.

        Raises:
            ConfigError: an unknown list, or a file that holds none.
            DataError: a COCO file whose categories cannot be used.
        """
        name = settings.tuning_classes
        return cls(name, None if name is None else class_list(name), synonyms(settings.class_synonyms))


def tune(model: nn.Module, checkpoint: Checkpoint, ours: LabelSpace, tables: ClassTables) -> LoadReport:
    """Load what fits of a checkpoint into a freshly built model, class heads by class name.

    Args:
        model: changed in place; unchanged when an error is raised.
        checkpoint: what the run starts from.
        ours: classes of the data.
        tables: what the run's settings say about the checkpoint's classes.

    Raises:
        CheckpointError: another architecture, or class names that do not fit the rows of the heads or each other.
    """
    theirs = checkpoint.label_space
    mapping = _Mapping(checkpoint.path, None if theirs is None else theirs.names, ours, tables)
    report = tune_weights(model, checkpoint.weights, str(checkpoint.path), mapping.classes_of)
    if tables.name is not None and not mapping.used:
        report.notes.append(f"tuning_classes {tables.name} was not needed: {mapping.why_unused}")
    report.notes.extend(mapping.notes)
    logger.info("%s", report.table())
    for note in mapping.warnings:
        logger.warning("%s", note)
    return report


class _Mapping:
    """Finds out once, when the number of rows is known, which names they have."""

    def __init__(self, file: Path, saved: tuple[str, ...] | None, ours: LabelSpace, tables: ClassTables) -> None:
        self.file, self.saved, self.ours, self.tables = file, saved, ours, tables
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.used = False
        self.why_unused = f"{file} has no class heads"

    def classes_of(self, count: int) -> ClassMap | None:
        """How the ``count`` classes of the file map to those of the data; None = the file's names are not known."""
        if self.saved is not None:
            names, place = self._saved_names(self.saved, count), str(self.file)
            self.why_unused = f"{self.file} names its classes itself"
        elif self.tables.given is not None:
            names, place = self._given_names(self.tables.given, count), f"tuning_classes {self.tables.name}"
            self.used = True
        else:
            recognised = self._recognised(count)
            if recognised is None:
                self._say_that_names_are_missing(count)
            return recognised
        return map_classes(names, self.ours.names, self.tables.synonyms, source_place=place)

    def _recognised(self, count: int) -> ClassMap | None:
        """Names for a file without any: the built-in list of its size, where data and list are about the same classes.

        The official code does so between Objects365 and COCO.
        """
        for name in _lists_of(count):
            try:
                mapping = map_classes(BUILT_IN[name]().names, self.ours.names, self.tables.synonyms, source_place=name)
            except CheckpointError:
                continue  # a class of the data could be one of two of the list: nothing to assume
            if (reason := _one_holds_the_other(mapping)) is not None:
                self.notes.append(
                    f"the file names no classes; its {count} rows were taken as those of {name}, {reason}; if they "
                    "are others, set tuning_classes to a file with their names"
                )
                return mapping
        return None

    def _saved_names(self, saved: tuple[str, ...], count: int) -> tuple[str, ...]:
        if len(saved) == count:
            return saved
        raise CheckpointError(
            f"{self.file} names {len(saved)} classes, but its class heads have {count} rows: the file is damaged or "
            "was put together from two; keep only its weights (torch.save of the state dict) and set tuning_classes"
        )

    def _given_names(self, given: LabelSpace, count: int) -> tuple[str, ...]:
        if len(given) == count:
            return given.names
        if max(given.category_ids) + 1 == count:
            # The official habit: category ids are labels, and ids that no class has are rows that nothing trained.
            return given.with_unused_ids().names
        fitting = _lists_of(count)
        other = f"{' or '.join(fitting)} has {count}" if fitting else f"give a file with {count} names"
        raise CheckpointError(
            f"tuning_classes {self.tables.name} has {len(given)} names, but the class heads of {self.file} have "
            f"{count} rows: {other}, or null to go without names"
        )

    def _say_that_names_are_missing(self, count: int) -> None:
        lists = _lists_of(count)
        setting = f"--tuning-classes {lists[0]}" if lists else f"--tuning-classes FILE (with its {count} names)"
        if count == len(self.ours):
            self.notes.append(
                f"the file names no classes; its {count} rows were taken as they are, which is right only if its "
                f"classes are those of the data in the same order; else add {setting}"
            )
            return
        self.warnings.append(
            f"{self.file} names no classes and its class heads have {count} rows, the data has {len(self.ours)} "
            f"classes: all class rows start anew. To keep the rows of classes that both have, add {setting} "
            f"(-u tuning_classes=...)" + (f", if these are the classes of {lists[0]}" if lists else "")
        )
        self.notes.append(self.warnings[-1])


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


def _one_holds_the_other(mapping: ClassMap) -> str | None:
    """That every class of the data is in the checkpoint's list, or every class of the list in the data; None = no."""
    used = set(mapping.rows)
    new = [name for name in mapping.new if not is_unused(name)]
    idle = [name for row, name in enumerate(mapping.source) if row not in used and not is_unused(name)]
    if not new:
        return "which has all classes of the data"
    return None if idle else "whose classes are all in the data"


def _lists_of(count: int) -> list[str]:
    """Built-in lists with that many classes."""
    return [name for name, read in BUILT_IN.items() if len(read()) == count]


BACKBONE = "backbone"
"""Name under which a detector holds its backbone."""
ENOUGH_OF_BACKBONE = 0.9
"""Share of a backbone's tensors that must fit: what else is missing would start from random numbers unnoticed."""
ENOUGH_OF_MODEL = 0.5
"""Share of a detector's tensors below which a file (whose backbone does not fit either) is of another architecture."""

ClassesOf = Callable[[int], "ClassMap | None"]
"""Works out how classes map, given the number of classes of the file; None = names are not known."""


def tune_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, classes_of: ClassesOf) -> LoadReport:
    """Load what a file has for a freshly built model; everything else keeps its fresh initialisation.

    Class heads are copied row by row where ``classes_of`` knows the names, else loaded where their shapes are equal.
    A file with nothing but a backbone's weights, with or without ``backbone.`` in front, fills the backbone.

    Args:
        model: changed in place; unchanged when an error is raised.
        state: weights of a checkpoint.
        source: its name for the report and messages.
        classes_of: called once, only for a file with class heads.

    Raises:
        CheckpointError: another architecture, or less than 90 % of the backbone in a backbone's file.
    """
    prefix = _backbone_prefix(model, state)
    if prefix is not None:
        own = model.state_dict()
        state = {prefix + key if prefix + key in own else key: value for key, value in state.items()}
    count = count_classes(state, class_tensors(model))
    classes = None if count is None else classes_of(count)
    fitting, report = compare(model, state, source, classes)
    if not fitting:
        raise CheckpointError(nothing_fits(model, state, source))
    report.notes.extend(report.remedies)
    if prefix is not None:
        _require_backbone(model, report)
        report.notes.append("the file holds a backbone only: encoder and decoder start anew")
    else:
        _require_same_architecture(model, report)
        fitting_in_backbone, total = _share(report, f"{BACKBONE}.")
        if fitting_in_backbone < total:
            report.notes.append(
                f"{total - fitting_in_backbone} of the {total} tensors of the backbone start from random numbers "
                "(its ImageNet weights are not read where a checkpoint is given): choose the backbone of the file, "
                "its name or depth, if that is not meant"
            )
            logger.warning("%s: %s", source, report.notes[-1])
    model.load_state_dict(fitting, strict=False)
    return report


def _backbone_prefix(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """What stands before the file's keys in the model, if the file has tensors of the backbone only; else None."""
    backbone = getattr(model, BACKBONE, None)
    own = model.state_dict()
    if not isinstance(backbone, nn.Module) or any(
        key in own and not key.startswith(f"{BACKBONE}.") and not is_counter(key) for key in state
    ):
        return None
    # A wrapper holds a library's model one or two levels down.
    wrapped = [name for name, _ in backbone.named_modules() if name and name.count(".") < 2]
    inside = [f"{BACKBONE}.", *(f"{BACKBONE}.{name}." for name in wrapped)]
    # Published detectors may have further names in front of all of it.
    first = next((key for key in own if key.startswith(f"{BACKBONE}.")), "")
    inside += [first[: dot + 1] for dot, letter in enumerate(first) if letter == "."]
    hits = {prefix: sum(prefix + key in own for key in state) for prefix in ("", *inside)}
    best = max(hits, key=lambda prefix: hits[prefix])
    return best if hits[best] else None


def _share(report: LoadReport, part: str) -> tuple[int, int]:
    """Tensors of a part of the model that fit, and all of them but those that are never loaded."""
    fitting = [*report.loaded, *(mapped.name for mapped in report.mapped)]
    others = [*report.missing, *(misfit.name for misfit in report.mismatched)]
    count = sum(name.startswith(part) for name in fitting)
    return count, count + sum(name.startswith(part) for name in others)


def _require_backbone(model: nn.Module, report: LoadReport) -> None:
    fitting, total = _share(report, f"{BACKBONE}.")
    if fitting >= ENOUGH_OF_BACKBONE * total:
        return
    name = type(getattr(model, BACKBONE)).__name__
    raise CheckpointError(
        f"{report.source} holds a backbone only, and {fitting} of the {total} tensors of {name} fit "
        f"({ENOUGH_OF_BACKBONE:.0%} must){_facts(report, f'{BACKBONE}.')}: "
        f"{'; '.join(report.remedies) or _ITS_BACKBONE}"
    )


_ITS_BACKBONE = "choose the backbone that the file belongs to (for HGNetv2 its name: B0 to B6)"
_SAME_CONFIG = (
    "use the config the checkpoint was trained with (its size n, s, m, l or x), or a checkpoint of this model"
)


def _require_same_architecture(model: nn.Module, report: LoadReport) -> None:
    fitting, total = _share(report, "")
    in_backbone = _share(report, f"{BACKBONE}.")
    whole_backbone = in_backbone[1] > 0 and in_backbone[0] >= ENOUGH_OF_BACKBONE * in_backbone[1]
    if whole_backbone or fitting >= ENOUGH_OF_MODEL * total:
        return
    raise CheckpointError(
        f"{report.source} is of another architecture: {fitting} of the {total} tensors of {type(model).__name__} fit, "
        f"{in_backbone[0]} of {in_backbone[1]} in the backbone{_facts(report)}"
        f"{report.family}: {'; '.join(report.remedies) or _SAME_CONFIG}"
    )


def _facts(report: LoadReport, part: str = "") -> str:
    """Examples of what does not fit in a part of the model, as a clause."""
    facts = []
    if misfits := [misfit for misfit in report.mismatched if misfit.name.startswith(part)]:
        facts.append(f"{len(misfits)} are of another shape, for example {misfits[0].name} ({misfits[0]})")
    if missing := [name for name in report.missing if name.startswith(part)]:
        facts.append(f"{len(missing)} are not in the file, for example {missing[0]}")
    if report.unexpected:
        facts.append(f"{len(report.unexpected)} of the file are not in the model, for example {report.unexpected[0]}")
    return "".join(f"; {fact}" for fact in facts)
