# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""AP of the very thing whose latency is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.errors import ConfigError, DataError
from ..data.dataset.coco import CocoDetection
from ..data.evaluate import CocoEvaluator
from ..deploy.backends.base import BackendInfo, Outputs
from ..deploy.detector import Detector
from ..nn.types import BatchDetections
from .subject import Subject, network_input


class SubjectBackend:
    """A subject in place of a backend of ``Detector``; short batches are filled up, for some take one size only."""

    def __init__(self, subject: Subject, batch: int) -> None:
        facts = subject.facts
        if facts.labels is None:
            raise ConfigError(
                f"{facts.source}: --coco needs to know its classes and trained weights: give a checkpoint, or an ONNX "
                "file of isdfine export"
            )
        recipe = facts.require_recipe()
        self.info = BackendInfo(facts.labels, recipe, facts.backend, facts.uint8, max_batch=batch)
        self._subject, self._batch = subject, batch

    def run(
        self, images: NDArray[Any], orig_sizes: NDArray[np.int64], image_sizes: NDArray[np.int64] | None = None
    ) -> Outputs:
        """See ``Backend``; no image sizes, as ``info`` says."""
        pixels = network_input(self._subject.facts, images)
        spare = self._batch - len(images)
        pixels = np.pad(pixels, [(0, spare), (0, 0), (0, 0), (0, 0)], mode="edge")
        sizes = np.pad(orig_sizes, [(0, spare), (0, 0)], mode="edge")
        outputs = self._subject.call(self._subject.place(pixels, sizes))
        count = len(images)
        return Outputs(outputs.labels[:count], outputs.boxes[:count], outputs.scores[:count])


def dataset_for(annotations: Path, images: Path | None) -> CocoDetection:
    """The data to measure AP on.

    Args:
        annotations: COCO JSON.
        images: folder; None = a folder beside the JSON or beside its folder that is named as the end of the JSON's name
            (``instances_val2017.json``: ``val2017``).

    Raises:
        ConfigError: no folder of images.
        DataError: annotations that cannot be used.
    """
    name = annotations.stem.rpartition("_")[2]
    likely = [annotations.parent / name, annotations.parent.parent / name]
    folder = images or next((place for place in likely if place.is_dir()), None)
    if folder is None:
        raise ConfigError(f"--coco {annotations}: no folder {' or '.join(map(str, likely))}: give it with --images")
    return CocoDetection(str(folder), str(annotations))


def average_precision(subject: Subject, dataset: CocoDetection, batch: int) -> dict[str, float]:
    """COCO metrics, fractions in [0, 1].

    Args:
        subject: whose classes have the names of the data's; further classes of it are left out.
        dataset: its images are read one batch at a time.
        batch: images per call.

    Raises:
        ConfigError: the subject does not say its classes.
        DataError: classes of the data that the subject does not have.
    """
    backend = SubjectBackend(subject, batch)
    to_label = _translation(backend.info.names, dataset, subject.facts.source)
    annotations = dataset.annotations
    files = [Path(dataset.img_folder) / name for name in annotations.file_names]
    evaluator = CocoEvaluator(dataset=dataset)
    evaluator.reset()
    detector = Detector(backend, batch_size=batch)
    for image_id, answer in zip(annotations.image_ids.tolist(), detector.stream(files, threshold=0.0)):
        labels = to_label[answer.labels]
        kept = labels >= 0
        arrays = (labels[kept], answer.boxes[kept], answer.scores[kept])
        detections = BatchDetections(*(torch.from_numpy(array)[None] for array in arrays))
        evaluator.update(detections, [{"image_id": torch.tensor(image_id)}])
    return evaluator.summarize().stats


def _translation(names: Sequence[str], dataset: CocoDetection, source: str) -> NDArray[np.int64]:
    """Label of the data by label of the model, -1 for classes that the data do not have."""
    theirs = dataset.label_space.names
    missing = [name for name in theirs if name not in names]
    if missing:
        raise DataError(
            f"{source}: has no class {', '.join(missing[:5])}, which {dataset.annotations.place} has: measure AP on "
            "data of its own classes"
        )
    return np.array([theirs.index(name) if name in theirs else -1 for name in names], dtype=np.int64)
