# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A trained model with its post-processing and its preprocessing: everything that turns an image into detections."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from torch import nn

from ..core.config import Config
from ..data.label_space import LabelSpace
from ..load import Checkpoint, inference_config, load_detector
from .convert import image_size_of
from .preprocess import Recipe

_COLLATES = "CollateFunction"


@dataclass(frozen=True)
class LoadedModel:
    """Everything that turns an image into detections."""

    model: nn.Module
    """In eval mode, on the CPU, as trained (``fuse`` makes the deployed form)."""
    postprocessor: nn.Module
    labels: LabelSpace
    recipe: Recipe
    """How images are prepared."""
    config: Config
    """The parts of the run's config that inference needs, checked."""
    source: Checkpoint


def load_model(
    path: str | PathLike[str], config: str | PathLike[str] | Config | None = None, *, ema: bool | None = None
) -> LoadedModel:
    """Read, build and check a trained model; see ``load_detector``.

    Raises:
        CheckpointError: the file cannot be read, carries no config, or weights and config do not fit.
        ConfigError: the config has no model, or evaluates with operations that inference cannot do.
    """
    found = load_detector(path, config, ema=ema)
    return LoadedModel(
        found.model, found.config.build("postprocessor"), found.labels, recipe_of(found.config), found.config,
        found.checkpoint,
    )  # fmt: skip


def recipe_of(config: Config) -> Recipe:
    """How a run prepares images for evaluation; squashed to ``eval_spatial_size`` where it does not say.

    Args:
        config: a run's, or what ``load_model`` made of it.

    Raises:
        ConfigError: operations that inference cannot do.
    """
    small = config if config.get("val_dataloader") is None else inference_config(config.data, config.path)
    if small.get("Compose") is None:
        return Recipe.squash(image_size_of(small))
    collate = next((name for name in small.registry if name.endswith(_COLLATES) and small.get(name) is not None), None)
    return Recipe.of_evaluation(small.build("Compose"), None if collate is None else small.build(collate))
