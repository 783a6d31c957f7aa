# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: whose classes the rows of a checkpoint are, and which of them the data has too."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..core.checkpoint.classes import ClassMap, LoadReport, Synonyms, map_classes
from ..core.checkpoint.weights import tune_weights
from ..core.config.settings import RunSettings
from ..core.errors import CheckpointError
from ..data.classes import BUILT_IN, class_list, synonyms
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


def check_label_space(checkpoint: Checkpoint, ours: LabelSpace) -> None:
    """Refuse a checkpoint whose classes are not those of the data (official files name none and pass).

    Raises:
        CheckpointError: other classes, with both lists.
    """
    theirs = checkpoint.label_space
    if theirs is None or theirs.names == ours.names:
        return
    known = theirs.describe()
    if checkpoint.folder is not None:  # transformers' names have no ids, and people write them in their own way
        if map_classes(theirs.names, ours.names, synonyms(), source_place=str(checkpoint.path)).identical:
            return
        known = ", ".join(theirs.names)
    raise CheckpointError(
        f"{checkpoint.path} was trained on the classes {known}, the data has {ours.describe()}: "
        "use the matching annotation file, or start a new run from these weights with -t"
    )


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
