# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Put a run together from its config, to evaluate a model. Training builds on it in ``training.py``.

All ranks are compared at the start: one that differs would train another model in silence.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from ..core import dist
from ..core.checkpoint.weights import LoadReport, load_weights
from ..core.config import Config, without_initial_weights
from ..core.config.node import leaves
from ..core.config.settings import RunSettings
from ..core.environment import pick_device
from ..core.errors import CheckpointError, ConfigError, DataError
from ..data.classes import synonyms
from ..data.dataset.annotations import Annotations
from ..data.dataset.detection import DetectionDataset
from ..data.dataset.images import limit_pixels
from ..data.evaluate import CocoEvaluator, EvalResult
from ..data.label_space import LabelSpace
from ..data.loader import DataLoader
from ..load import Checkpoint, checkpoint_file, open_checkpoint
from ..nn.types import BatchDetections
from ..optim.precision import Precision
from .checkpoint import seed_everything
from .evaluate import PostProcessor, detect, evaluate
from .speed import use_channels_last
from .tuning import map_classes

logger = logging.getLogger(__name__)


def _check_class_counts(config: Config) -> None:
    """Refuse a section that says another number of classes than the data has: the model and the losses need one."""
    count = config.get("num_classes")
    for name in config.registry:
        own = config.get(f"{name}.num_classes")
        if own not in (None, count):
            raise ConfigError(
                f"{config.origins[f'{name}.num_classes']}: {name}.num_classes is {own}, but the data has {count} "
                "classes: remove it, since num_classes at the top level (or the data) says it for every part"
            )


def build_model(config: Config, device: torch.device) -> nn.Module:
    """The model of a config on a device, its weights laid out as training has them: a test gives the same numbers."""
    model: nn.Module = config.build("model").to(device)
    if config.settings.keeps_channels_last(device.type):
        use_channels_last(model)
    return model


class Evaluation:
    """A model with the data and metrics it is judged by.

    Args:
        config: a loaded config with the sections model, postprocessor, evaluator and val_dataloader.
    """

    def __init__(self, config: Config) -> None:
        self.settings: RunSettings = config.settings
        for start in (self.settings.resume, self.settings.tuning):
            if start is not None:
                checkpoint_file(start)  # a mistyped path is found before the data is read
        limit_pixels(self.settings.max_pixels)
        self.device = pick_device(self.settings.device)
        seed_everything(self.settings.seed or 0)
        self.val_loader: DataLoader = config.build("val_dataloader").to(self.device)
        compare_data("val_dataloader", self.val_loader.dataset)
        self.label_space: LabelSpace = self.val_loader.dataset.label_space
        if not self.label_space:
            raise DataError(
                f"{self.val_loader.dataset.annotations.place}: val_dataloader holds images without annotations "
                f"({type(self.val_loader.dataset).__name__}) and no classes: give it a data set with annotations"
            )
        # An inferred class count is written down, so that the saved config works where the annotations are not.
        self.config = config = config.with_values({"num_classes": len(self.label_space)})
        _check_class_counts(config)
        # a checkpoint brings all weights anyway
        starts_elsewhere = self.settings.resume is not None or self.settings.tuning is not None
        self.model = build_model(without_initial_weights(config) if starts_elsewhere else config, self.device)
        self.postprocessor: PostProcessor = config.build("postprocessor").to(self.device)
        self.evaluator: CocoEvaluator = config.build("evaluator", dataset=self.val_loader.dataset)
        self.precision = Precision(self.settings.eval_precision, self.device)
        """Of evaluations."""

    def load(self, path: str | Path) -> LoadReport:
        """Load the weights to be judged: the EMA of a checkpoint where it has one.

        Raises:
            CheckpointError: the file cannot be read, or belongs to another model or other classes.
        """
        checkpoint = open_checkpoint(path)
        check_classes(checkpoint, self.label_space)
        report = load_weights(self.model, checkpoint.weights, source=str(checkpoint.path))
        logger.info("%s", report.summary())
        return report

    def evaluate(self, model: nn.Module | None = None, on_batch: Callable[[], None] | None = None) -> EvalResult:
        """COCO metrics on the validation data; ``on_batch`` is called after every batch."""
        judged = model or self.model
        return evaluate(
            judged, self.postprocessor, self.val_loader, self.evaluator, precision=self.precision, on_batch=on_batch
        )

    def sample_detections(self, count: int, model: nn.Module | None = None) -> Iterator[tuple[int, BatchDetections]]:
        """The first ``count`` validation images of this rank: image id and its detections (K rows, on the CPU)."""
        model = (model or self.model).eval()
        left = count
        for images, targets in self.val_loader if count > 0 else ():
            with torch.inference_mode():
                batch = detect(model, self.postprocessor, images, targets, self.precision)
            for index, target in enumerate(targets[:left]):
                yield int(target["image_id"]), BatchDetections(*(field[index].cpu() for field in batch))
            left -= len(targets)
            if left <= 0:
                return


def check_classes(checkpoint: Checkpoint, ours: LabelSpace) -> None:
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


def compare_configs(config: Config, command: str = "") -> None:
    """Resolved config, version of the code and command, of all ranks. Paths of data may differ: their content is
    compared when it has been read.

    Raises:
        ConfigError: on every rank, naming rank and keys.
    """
    if dist.world_size() == 1:
        return
    facts = {key: value for key, value in leaves(config.data) if not _is_data_path(key, value)}
    code = 0
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        code = zlib.crc32(file.read_bytes(), code)
    dist.require_same(
        {**facts, "command": command, "isdfine's code": f"{code:08x}", "torch": torch.__version__}, "configuration"
    )


def compare_data(name: str, dataset: DetectionDataset) -> None:
    """Classes, images and boxes of all ranks.

    Raises:
        ConfigError: on every rank, naming rank and what differs.
    """
    if dist.world_size() == 1:
        return
    facts = {
        f"{name}: classes": dataset.label_space.describe(),
        f"{name}: all classes": f"{zlib.crc32(repr(dataset.label_space).encode()):08x}",
        f"{name}: images": len(dataset),
        f"{name}: annotations (checksum)": f"{_sum(dataset.annotations):08x}",
    }
    dist.require_same(facts, "data set")


def _sum(annotations: Annotations) -> int:
    total = 0
    for array in (annotations.image_ids, annotations.offsets, annotations.labels, annotations.boxes_xywh_px):
        total = zlib.crc32(array.tobytes(), total)
    return total


def _is_data_path(key: str, value: object) -> bool:
    return ".dataset." in key and isinstance(value, str) and ("/" in value or "\\" in value)
