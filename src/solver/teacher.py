# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The teacher of a run: read from a checkpoint of any family, its classes found among those of the data."""

from __future__ import annotations

import logging

import torch

from ..core import dist
from ..core.config import Config
from ..core.config.settings import TeacherPlan
from ..core.errors import CheckpointError, ConfigError
from ..data.classes import class_list, synonyms
from ..data.label_space import LabelSpace, mscoco_rows
from ..data.loader import DataLoader
from ..distill.taught import Lesson
from ..distill.teacher import CommonClasses, Teacher
from ..load import LoadedDetector, load_detector
from .teacher_cache import build_cache
from .tuning import map_classes

logger = logging.getLogger(__name__)


def build_lesson(
    config: Config, labels: LabelSpace, device: torch.device, loader: DataLoader | None = None
) -> Lesson | None:
    """The teacher that a config names, on the device; None where it names none.

    Args:
        labels: classes of the data, which are the student's.
        loader: of the training data, for a cache of the teacher's answers; None asks the teacher at every step.

    Raises:
        CheckpointError: the file cannot be read, carries no config and none is given, or is of an unknown family.
        ConfigError: its classes are not known, none of them is one of the data's, or the data cannot be cached.
    """
    plan = TeacherPlan.of(config.settings.teacher)
    if plan is None:
        return None
    place = f"{config.origins['teacher']}: teacher"
    try:
        loaded = load_detector(plan.checkpoint, plan.config)
    except CheckpointError as error:
        raise CheckpointError(f"{place}.checkpoint: {error}") from error
    classes = _common(loaded, plan, labels, config.settings.class_synonyms, place, device)
    teacher = Teacher(loaded.model.to(device), precision=plan.precision, resize=plan.resize)  # type: ignore[arg-type]
    if dist.is_main():
        logger.info(
            "teacher: %s of %s, %s, knows %d of the %d classes",
            type(loaded.model).__name__, loaded.checkpoint.path, plan.precision, len(classes), len(labels),
        )  # fmt: skip
    cache = None if loader is None else build_cache(plan, loaded, loader, place)
    return Lesson(teacher, classes, plan.alpha, plan.beta, cache)


def _common(
    loaded: LoadedDetector, plan: TeacherPlan, labels: LabelSpace, table: str | None, place: str, device: torch.device
) -> CommonClasses:
    """The classes that both know, with a warning where the teacher lacks one."""
    names, known = _names(loaded, plan, place), len(loaded.labels)
    if names is None:
        if known != len(labels):
            raise ConfigError(
                f"{place}: {plan.checkpoint} names no classes and has {known}, the data has {len(labels)}: say whose "
                "they are with teacher.classes (such as coco, or a file with names)"
            )
        logger.warning(
            "%s: %s names no classes: its %d are taken for those of the data in the same order, which teacher.classes "
            "can say better", place, plan.checkpoint, known,
        )  # fmt: skip
        return CommonClasses.of(range(known), known, device)
    found = map_classes(names, labels.names, synonyms(table), source_place=plan.checkpoint)
    if all(row is None for row in found.rows):
        raise ConfigError(
            f"{place}: {plan.checkpoint} knows none of the classes of the data: it has {', '.join(names[:5])}, the "
            f"data {', '.join(labels.names[:5])}; take another teacher, or name equal classes in class_synonyms"
        )
    if found.new and dist.is_main():
        logger.warning(
            "%s: %s does not know %s: nothing is distilled of these class scores",
            place, plan.checkpoint, ", ".join(found.new),
        )  # fmt: skip
    return CommonClasses.of(found.rows, known, device)


def _names(loaded: LoadedDetector, plan: TeacherPlan, place: str) -> tuple[str, ...] | None:
    """Of the teacher's class columns; None: not known."""
    saved = loaded.checkpoint.label_space or mscoco_rows(loaded.config, len(loaded.labels))
    if saved is not None:
        return saved.names
    if plan.classes is None:
        return None
    given = class_list(plan.classes)
    fitting = [space for space in (given, given.with_unused_ids()) if len(space) == len(loaded.labels)]
    if not fitting:
        raise ConfigError(
            f"{place}.classes {plan.classes} has {len(given)} names, but {plan.checkpoint} has {len(loaded.labels)} "
            "classes: give the list of its classes"
        )
    return fitting[0].names
