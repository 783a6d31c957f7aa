# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""AP of the teachers of an ablation on its validation data: what their students could reach."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.checkpoint.card import file_sha256
from ..core.command import write_json
from ..core.config import Config
from ..core.config.layers import read_tree
from ..core.config.settings import TeacherPlan
from ..core.config.shipped import find_config
from ..core.errors import ConfigError
from ..distill.teacher import Teacher
from ..load import checkpoint_file, inference_config, load_detector
from ..nn.types import Predictions, Want
from ..solver.solver import Evaluation, check_classes

logger = logging.getLogger(__name__)

Stats = dict[str, float]


def teacher_metrics(config: Config, plan: TeacherPlan) -> Stats:
    """Evaluate the teacher of a run on the run's validation data, as the run lets it see images.

    Args:
        config: of the run.
        plan: its section ``teacher``.

    Raises:
        CheckpointError: the teacher cannot be read, or names other classes than the data.
        ConfigError: it has another number of classes.
    """
    loaded = load_detector(plan.checkpoint, plan.config)
    run = Evaluation(config.with_values({"resume": plan.checkpoint, "tuning": None}))  # no initial weights are fetched
    check_classes(loaded.checkpoint, run.label_space)
    if len(loaded.labels) != len(run.label_space):
        raise ConfigError(f"it has {len(loaded.labels)} classes, the data {len(run.label_space)}")
    run.postprocessor = loaded.postprocessor.to(run.device)
    teacher = Teacher(loaded.model.to(run.device), precision=plan.precision, resize=plan.resize)  # type: ignore[arg-type]
    return run.evaluate(_Judged(teacher)).stats


class _Judged(nn.Module):
    """A teacher as evaluations call a model."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self._teacher = teacher

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> Predictions:
        return self._teacher(images, image_sizes, want=Want()).layers[-1]


def cached_teacher(config: Config, folder: Path, *, measure: bool) -> Stats | None:
    """:func:`teacher_metrics`, or what it found before for the same weights and the same data.

    Args:
        config: of a run.
        folder: of the ablation, which keeps one JSON file per teacher and data set.
        measure: what is not known; else it is None.

    Returns:
        None for a run without a teacher, too.

    Raises:
        CheckpointError: the teacher is gone, or see :func:`teacher_metrics`.
        ConfigError: the file of results cannot be read.
    """
    plan = TeacherPlan.of(config.settings.teacher)
    if plan is None:
        return None
    mark = _mark(config, plan)
    digest = hashlib.sha256(json.dumps(mark, sort_keys=True, default=str).encode()).hexdigest()
    cache = folder / f"teacher_{digest[:16]}.json"
    if cache.is_file():
        try:
            return {
                name: float(value) for name, value in json.loads(cache.read_text(encoding="utf-8"))["stats"].items()
            }
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(f"{cache}: cannot be read ({error}): delete it, and it is measured again") from error
    if not measure:
        return None
    logger.info("AP of the teacher %s", plan.checkpoint)
    measured = teacher_metrics(config, plan)
    write_json(cache, {"checkpoint": plan.checkpoint, "stats": measured})
    return measured


def _mark(config: Config, plan: TeacherPlan) -> dict[str, Any]:
    """What the teacher's AP depends on: its weights and config by content, how it sees images, the validation data."""
    file = checkpoint_file(plan.checkpoint)
    files = sorted(path for path in file.iterdir() if path.is_file()) if file.is_dir() else [file]
    data = {**config.data, "model": None, "postprocessor": None, "seed": None}
    return {
        "weights": [file_sha256(path) for path in files],
        "config": plan.config and inference_config(read_tree(find_config(plan.config)).plain(), plan.config).data,
        "seen": {name: value for name, value in asdict(plan).items() if name in ("precision", "resize")},
        "transforms": inference_config(data, str(config.path)).data,
        "data": [config.get(name) for name in ("val_dataloader", "evaluator", "eval_precision")],
    }
