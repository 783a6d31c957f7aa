# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO detection metrics over all ranks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import dist
from ..core.errors import ConfigError, DataError, NonFiniteError
from ..core.registry import register
from ..nn.types import BatchDetections
from . import Floats, Ints
from .coco_metrics import ABSENT, Detected, Truth, coco_metrics
from .dataset.annotations import Annotations
from .dataset.detection import DetectionDataset

logger = logging.getLogger(__name__)

_AREAS = ("", "s", "m", "l")
"""All, small (< 32 x 32 pixels), medium, large (>= 96 x 96): the order of the evaluator's arrays."""


@dataclass(frozen=True)
class ClassResult:
    """Metrics of one class; -1 where it has no ground truth."""

    name: str
    ap: float
    """AP averaged over IoU 0.50:0.95."""
    ap50: float
    num_boxes: int
    """Annotated boxes, crowd regions not counted."""


@dataclass(frozen=True)
class EvalResult:
    """Metrics of one evaluation, fractions in [0, 1]; -1 where there is no ground truth of that kind."""

    stats: dict[str, float]
    """AP, AP50, AP75, APs, APm, APl, then AR<k> per number of detections k, ARs, ARm, ARl."""
    per_class: list[ClassResult]
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Both tables as text: summary, then one line per class."""
        width = max([len("class"), *(len(result.name) for result in self.per_class)])
        lines = [f"{'class':<{width}}  {'AP':>6}  {'AP50':>6}  {'boxes':>7}"]
        lines += [
            f"{result.name:<{width}}  {shown(result.ap):>6}  {shown(result.ap50):>6}  {result.num_boxes:>7}"
            for result in self.per_class
        ]
        boxes = sum(result.num_boxes for result in self.per_class)
        all_classes = f"{shown(self.stats['AP']):>6}  {shown(self.stats['AP50']):>6}  {boxes:>7}"
        lines += ["-" * len(lines[0]), f"{'all':<{width}}  {all_classes}", ""]
        names = list(self.stats)
        for row in (names[:6], names[6:]):
            lines.append("  ".join(f"{name} {shown(self.stats[name])}" for name in row))
        return "\n".join(lines) + f"\n({self.num_images} images, IoU 0.50:0.95)"


class ImageDetections(NamedTuple):
    """Detections of one image as arrays: K boxes xyxy in pixels, K scores, K contiguous labels."""

    image_id: int
    boxes_xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: Ints


class _Arriving:
    """Detections of one batch on their way to the host.

    From a GPU they are copied into pinned memory behind the work that makes them. Nothing waits before they are read,
    so that the GPU can be given its next batch first.
    """

    def __init__(self, detections: BatchDetections, targets: Iterable[Mapping[str, Tensor]]) -> None:
        ids = torch.cat([target["image_id"].reshape(1) for target in targets])
        boxes, scores = (tensor.detach().float() for tensor in (detections.boxes, detections.scores))
        self._tensors = [tensor.to("cpu", non_blocking=True) for tensor in (ids, boxes, scores, detections.labels)]
        self._copied = torch.cuda.current_stream(scores.device).record_event() if scores.is_cuda else None

    def images(self) -> Iterator[ImageDetections]:
        """One by one, in the order of the batch; waits until they are here.

        Raises:
            NonFiniteError: scores or boxes that are not finite.
        """
        if self._copied is not None:
            self._copied.synchronize()
        # Pinned memory is scarce and goes back at once; a CPU's own tensors are kept as they are.
        ids, boxes, scores, labels = (
            tensor.numpy() if self._copied is None else tensor.numpy().copy() for tensor in self._tensors
        )
        finite = np.isfinite(boxes).all(axis=(1, 2)) & np.isfinite(scores).all(axis=1)
        if not finite.all():
            raise NonFiniteError(
                f"detections of image {ids[finite.argmin()]} are not finite: the weights have diverged; "
                "evaluate an earlier checkpoint, or train with a lower learning rate"
            )
        yield from map(ImageDetections, ids.tolist(), boxes, scores, labels)


@register
class CocoEvaluator:
    """Collects detections batch by batch, then computes COCO's bounding-box metrics.

    A batch is read on the host when the next one has been queued on the device, so at most two are under way.

    Args:
        iou_types: must be ``[bbox]``.
        max_dets: three or any number of ascending counts: AR is reported for each; AP, AR by size and per-class values
            use the last, which may exceed COCO's 100.
        dataset: whose annotations are the ground truth. Given by the solver; or assign ``dataset`` later.
    """

    def __init__(
        self,
        iou_types: Sequence[str] = ("bbox",),
        max_dets: Sequence[int] = (1, 10, 100),
        dataset: DetectionDataset | None = None,
    ) -> None:
        if list(iou_types) != ["bbox"]:
            raise ConfigError(f"CocoEvaluator: iou_types is {list(iou_types)}: only [bbox] is supported")
        counts = list(max_dets)
        if not counts or counts[0] < 1 or any(a >= b for a, b in pairwise(counts)):
            raise ConfigError(
                f"CocoEvaluator: max_dets is {counts}: give ascending counts above 0, such as [1, 10, 100]"
            )
        self.max_dets = counts
        self.dataset = dataset
        self._seen: list[ImageDetections] = []
        self._arriving: _Arriving | None = None

    @property
    def metrics(self) -> list[str]:
        """Names of what an evaluation says, in the order of :class:`EvalResult`."""
        sizes = _AREAS[1:]
        precisions = ["AP", "AP50", "AP75", *(f"AP{size}" for size in sizes)]
        return [*precisions, *(f"AR{count}" for count in self.max_dets), *(f"AR{size}" for size in sizes)]

    def reset(self) -> None:
        """Forget all detections.

        Raises:
            DataError: the data set has no annotations to measure against.
        """
        if self.dataset is not None and not self.dataset.annotated:
            raise DataError(
                f"{self.dataset.annotations.place}: images without annotations ({type(self.dataset).__name__}) cannot "
                "be evaluated, only predicted: give val_dataloader a data set with annotations"
            )
        self._seen, self._arriving = [], None

    def update(self, detections: BatchDetections, targets: Iterable[Mapping[str, Tensor]]) -> None:
        """Add one batch.

        Args:
            detections: labels (B, K), boxes (B, K, 4) xyxy pixels of the original images, scores (B, K).
            targets: B dicts with ``image_id``.

        Raises:
            NonFiniteError: scores or boxes of the batch before are not finite: the model has diverged.
        """
        coming = _Arriving(detections, targets)
        self._read()
        self._arriving = coming

    def _read(self) -> None:
        """Take in the batch that is under way."""
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            self._seen.extend(arriving.images())

    def summarize(self) -> EvalResult:
        """Metrics over what all ranks have seen, the same object on each; an image seen twice counts once.

        Raises:
            DataError: an image id that the data set does not have, or a label outside its classes.
            NonFiniteError: scores or boxes of the last batch are not finite.
            ValueError: there is no data set.
        """
        if self.dataset is None:
            raise ValueError("CocoEvaluator has no ground truth: pass dataset=..., or set evaluator.dataset")
        self._read()
        parts = dist.gather_objects(self._seen)
        outcome: EvalResult | DataError | None = None
        if dist.is_main():
            merged = {detection.image_id: detection for part in reversed(parts) for detection in reversed(part)}
            try:
                outcome = evaluate_detections(self.dataset.annotations, list(merged.values()), self.max_dets)
            except DataError as error:  # every rank must hear of it, or the others would wait forever
                outcome = error
        outcome = dist.broadcast_object(outcome)
        if isinstance(outcome, DataError):
            raise outcome
        assert outcome is not None
        return outcome


def evaluate_detections(
    annotations: Annotations, detections: Sequence[ImageDetections], max_dets: Sequence[int]
) -> EvalResult:
    """COCO metrics of the images in ``detections``, on one process."""
    seen = np.sort(np.array([detection.image_id for detection in detections], np.int64))
    foreign = np.setdiff1d(seen, annotations.image_ids)
    if foreign.size:
        raise DataError(f"{annotations.place}: no image has the id {foreign[0]}, but there are detections for it")
    if len(seen) < len(annotations):
        logger.warning("metrics over %d of the %d images of %s", len(seen), len(annotations), annotations.place)
    names, truth = annotations.label_space.names, _truth(annotations, seen)
    precision, recall = coco_metrics(truth, _detected(annotations, detections, seen), len(names), max_dets)
    boxes = np.bincount(truth.labels[~truth.crowd], minlength=len(names))
    half, three_quarters = 0, 5  # IoU thresholds 0.50, 0.55, ..., 0.95
    stats = {
        "AP": _mean(precision[:, :, :, 0]),
        "AP50": _mean(precision[half, :, :, 0]),
        "AP75": _mean(precision[three_quarters, :, :, 0]),
    }
    stats |= {f"AP{_AREAS[area]}": _mean(precision[:, :, :, area]) for area in (1, 2, 3)}
    stats |= {f"AR{count}": _mean(recall[:, :, 0, index]) for index, count in enumerate(max_dets)}
    stats |= {f"AR{_AREAS[area]}": _mean(recall[:, :, area, -1]) for area in (1, 2, 3)}
    per_class = [
        ClassResult(name, _mean(precision[:, :, k, 0]), _mean(precision[half, :, k, 0]), int(boxes[k]))
        for k, name in enumerate(names)
    ]
    return EvalResult(stats, per_class, len(seen))


def _truth(annotations: Annotations, seen: Ints) -> Truth:
    """The boxes of the images that were seen as the file has them: unclipped, with its areas and crowd regions."""
    owners = np.repeat(annotations.image_ids, np.diff(annotations.offsets))
    images = np.searchsorted(seen, owners)
    rows = np.flatnonzero(np.isin(owners, seen))
    return Truth(
        images[rows], annotations.labels[rows], annotations.boxes_xywh_px[rows], annotations.area_px[rows],
        annotations.crowd[rows],
    )  # fmt: skip


def _detected(annotations: Annotations, detections: Sequence[ImageDetections], seen: Ints) -> Detected:
    count = len(annotations.label_space)
    for detection in detections:
        labels = detection.labels
        if labels.size and not 0 <= labels.min() <= labels.max() < count:
            raise DataError(
                f"detections of image {detection.image_id} have labels {labels.min()}..{labels.max()}, "
                f"but {annotations.place} has {count} classes: {annotations.label_space.describe()}"
            )
    owners = np.array([detection.image_id for detection in detections], np.int64)
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(detection.boxes_xyxy_px for detection in detections)])
    boxes_xywh = boxes.astype(np.float64)
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    return Detected(
        np.repeat(np.searchsorted(seen, owners), [len(detection.scores) for detection in detections]),
        np.concatenate([np.zeros(0, np.int64), *(detection.labels for detection in detections)]),
        boxes_xywh,
        np.concatenate([np.zeros(0, np.float32), *(detection.scores for detection in detections)]),
    )


def _mean(values: Floats) -> float:
    measured = values[values > ABSENT]
    return float(measured.mean()) if measured.size else ABSENT


def shown(value: float) -> str:
    return "-" if value == ABSENT else f"{100 * value:.1f}"
