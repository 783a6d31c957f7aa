# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO detection metrics, computed by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..core import dist
from ..core.errors import ConfigError, DataError
from ..core.registry import register
from ..nn.types import Detections
from .dataset.coco import CocoDetection

STATS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@dataclass(frozen=True)
class ClassResult:
    """Metrics of one class; NaN where the data has no box of it."""

    name: str
    ap: float
    """Mean over IoU .50 to .95."""
    ap50: float
    boxes: int
    """Ground-truth boxes, crowds left out."""


@dataclass(frozen=True)
class EvalResult:
    """Metrics of one evaluation, each in [0, 1] (NaN where undefined)."""

    stats: dict[str, float]
    """AP, AP50, AP75, AP by size, and AR by detections per image and by size."""
    per_class: list[ClassResult]
    images: int
    """Images judged."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def table(self) -> str:
        """Overall and per-class metrics as text, in percent."""
        width = max(5, *(len(one.name) for one in self.per_class))
        head = "   ".join(f"{name} {percent(value)}" for name, value in self.stats.items() if name.startswith("AP"))
        recall = "   ".join(f"{name} {percent(value)}" for name, value in self.stats.items() if name.startswith("AR"))
        rows = [f"{'class':<{width}}  {'AP':>5}  {'AP50':>5}  {'boxes':>6}"]
        rows += [
            f"{one.name:<{width}}  {percent(one.ap)}  {percent(one.ap50)}  {one.boxes:>6}" for one in self.per_class
        ]
        return "\n".join([f"{self.images} images, values in percent", head, recall, "", *rows])


def percent(value: float) -> str:
    """One decimal in five columns, a dash where undefined."""
    return f"{'-':>5}" if math.isnan(value) else f"{100 * value:5.1f}"


@register
class CocoEvaluator:
    """Collect detections image by image, then compute COCO metrics over all ranks.

    Args:
        dataset: the data set that the images come from; its annotations, crowds included, are the truth.
        iou_types: only ``bbox``.
        max_dets: detections per image that count, ascending; AP is taken at the last.
    """

    def __init__(
        self, dataset: CocoDetection, iou_types: Sequence[str] = ("bbox",), max_dets: Sequence[int] = (1, 10, 100)
    ) -> None:
        if list(iou_types) != ["bbox"]:
            raise ConfigError(f"CocoEvaluator.iou_types is {list(iou_types)}: only [bbox] is supported")
        if not max_dets or list(max_dets) != sorted(set(max_dets)) or max_dets[0] < 1:
            raise ConfigError(f"CocoEvaluator.max_dets is {list(max_dets)}: give ascending numbers above 0")
        self.dataset = dataset
        self.max_dets = list(max_dets)
        self._rows: dict[int, np.ndarray] = {}

    def reset(self) -> None:
        """Forget what was collected."""
        self._rows = {}

    def update(self, detections: Detections, targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Add one batch.

        Args:
            detections: B images, K detections each, xyxy pixels of the original image.
            targets: B dicts with ``image_id``.
        """
        labels, boxes, scores = (field.detach().float().cpu().numpy() for field in detections)
        rows = np.concatenate([boxes, scores[..., None], labels[..., None]], axis=-1).astype(np.float64)  # (B, K, 6)
        for one, target in zip(rows, targets):
            self._rows[int(target["image_id"])] = one

    def summarize(self) -> EvalResult:
        """Metrics over the images of all ranks, each counted once; the same result on every rank."""
        merged: dict[int, np.ndarray] = {}
        for part in dist.gather_objects(self._rows):
            merged.update(part)
        problem: DataError | None = None
        result: EvalResult | None = None
        if dist.is_main():
            try:
                result = self._compute(merged)
            except DataError as error:
                problem = error
        problem = dist.broadcast_object(problem)
        if problem is not None:
            raise problem
        result = dist.broadcast_object(result)
        if result is None:
            raise RuntimeError("rank 0 sent no result")
        return result

    def _compute(self, rows: Mapping[int, np.ndarray]) -> EvalResult:
        from faster_coco_eval import COCO, COCOeval_faster

        if not rows:
            raise DataError("no image was evaluated: val_dataloader is empty")
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(truth_of(self.dataset))
            found = truth.loadRes(results_of(rows, self.dataset.label_space.category_ids))
            judge = COCOeval_faster(truth, found, iouType="bbox", print_function=lambda *_: None)
            judge.params.maxDets = self.max_dets
            judge.params.imgIds = sorted(rows)
            judge.evaluate()
            judge.accumulate()
        return self._result(judge.eval["precision"], judge.eval["recall"], sorted(rows))

    def _result(self, precision: np.ndarray, recall: np.ndarray, image_ids: Sequence[int]) -> EvalResult:
        """From COCO's arrays: precision (IoUs, recalls, classes, areas, max_dets), recall without recalls."""
        stats = {
            "AP": mean_of(precision[:, :, :, 0, -1]),
            "AP50": mean_of(precision[0, :, :, 0, -1]),
            "AP75": mean_of(precision[5, :, :, 0, -1]),
        }
        areas = ("small", "medium", "large")
        stats |= {f"AP_{name}": mean_of(precision[:, :, :, row, -1]) for row, name in enumerate(areas, start=1)}
        stats |= {f"AR@{count}": mean_of(recall[:, :, 0, row]) for row, count in enumerate(self.max_dets)}
        stats |= {f"AR_{name}": mean_of(recall[:, :, row, -1]) for row, name in enumerate(areas, start=1)}
        annotations = self.dataset.annotations
        judged = np.isin(np.repeat(annotations.image_ids, np.diff(annotations.offsets)), list(image_ids))
        counts = np.bincount(annotations.labels[judged & ~annotations.crowd], minlength=len(self.dataset.label_space))
        per_class = [
            ClassResult(
                name, mean_of(precision[:, :, row, 0, -1]), mean_of(precision[0, :, row, 0, -1]), int(counts[row])
            )
            for row, name in enumerate(self.dataset.label_space.names)
        ]
        return EvalResult(stats, per_class, len(image_ids))


def mean_of(values: np.ndarray) -> float:
    """Mean over the defined entries (COCO marks the others -1); NaN where there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def truth_of(dataset: CocoDetection) -> dict[str, Any]:
    """A COCO dictionary of the whole data set, crowds included, boxes and areas as in the file."""
    annotations, space = dataset.annotations, dataset.label_space
    owner = np.repeat(annotations.image_ids, np.diff(annotations.offsets)).tolist()
    ids = np.asarray(space.category_ids)[annotations.labels].tolist()
    columns = (annotations.boxes_xywh.tolist(), annotations.areas.tolist(), annotations.crowd.tolist())
    return {
        "images": [
            {"id": one, "height": height, "width": width}
            for one, (height, width) in zip(annotations.image_ids.tolist(), annotations.sizes.tolist())
        ],
        "categories": [{"id": one, "name": name} for one, name in zip(space.category_ids, space.names)],
        "annotations": [
            {"id": row, "image_id": image, "category_id": kind, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for row, (image, kind, box, area, crowd) in enumerate(zip(owner, ids, *columns), start=1)
        ],
    }


def results_of(rows: Mapping[int, np.ndarray], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """COCO results from (K, 6) rows x1, y1, x2, y2, score, label index of every image."""
    ids = np.asarray(category_ids)
    results = []
    for image, found in rows.items():
        corners = found[:, :4]
        sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        kinds = ids[found[:, 5].astype(np.int64)].tolist()
        results += [
            {"image_id": image, "category_id": kind, "bbox": box, "score": score}
            for box, score, kind in zip(sizes, found[:, 4].tolist(), kinds)
        ]
    return results
