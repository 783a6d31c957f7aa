# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From what other projects' graphs say to detections, as those projects do it: part of the time of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from ..core.errors import ConfigError
from ..deploy.backends.base import OUTPUTS, Outputs
from .subject import IN_GRAPH

TOP, YOLO_SCORE, YOLO_IOU = 300, 0.25, 0.7
"""Detections kept, and ultralytics' own thresholds for prediction."""
_FINISHED_ROW = 6
Finish = Callable[[Mapping[str, NDArray[Any]], NDArray[np.int64], tuple[int, int]], Outputs]


def finish_for(outputs: Mapping[str, Sequence[Any]], place: str) -> tuple[Finish, str]:
    """How outputs become detections, and that in words.

    Args:
        outputs: shapes of a graph's outputs by name.
        place: the file, for messages.

    Raises:
        ConfigError: outputs of a kind that is not known.
    """
    if set(OUTPUTS) <= set(outputs):
        return _as_they_are, IN_GRAPH
    if {"logits", "pred_boxes"} <= set(outputs):
        return _transformers, f"sigmoid and top {TOP} in numpy, after the graph"
    if list(outputs) == ["output0"]:
        shape = outputs["output0"]
        if len(shape) == 3 and shape[2] == _FINISHED_ROW:  # (B, K, 6): boxes, score and class of finished detections
            raise ConfigError(
                f"{place}: its output0 {list(shape)} holds finished detections (nms=True, or a model without NMS), "
                "known is [N, 4 + classes, candidates]: export it without nms, or another model"
            )
        return _yolo, f"scores above {YOLO_SCORE}, NMS at IoU {YOLO_IOU} in torchvision, after the graph"
    raise ConfigError(
        f"{place}: has the outputs {', '.join(outputs)}; known are {', '.join(OUTPUTS)} (D-FINE), logits and "
        "pred_boxes (transformers), output0 (ultralytics without nms=True): export it in one of these forms"
    )


def _as_they_are(outputs: Mapping[str, NDArray[Any]], sizes: NDArray[np.int64], size: tuple[int, int]) -> Outputs:
    return Outputs(*(outputs[name] for name in OUTPUTS))


def _transformers(outputs: Mapping[str, NDArray[Any]], sizes: NDArray[np.int64], size: tuple[int, int]) -> Outputs:
    """Best pairs of query and class, as ``RTDetrImageProcessor.post_process_object_detection``."""
    logits, boxes = outputs["logits"], outputs["pred_boxes"]  # (B, Q, C), (B, Q, 4) cxcywh
    flat = logits.reshape(len(logits), -1)
    count = min(TOP, boxes.shape[1])
    best = np.argpartition(-flat, count - 1, axis=1)[:, :count]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(flat, best, 1), axis=1), 1)  # (B, K)
    scores = 1 / (1 + np.exp(-np.take_along_axis(flat, best, 1)))
    chosen = np.take_along_axis(boxes, (best // logits.shape[-1])[..., None], axis=1)  # (B, K, 4)
    grown = _corners(chosen) * np.tile(sizes, (1, 2))[:, None]
    return Outputs(best % logits.shape[-1], grown.astype(np.float32), scores.astype(np.float32))


def _yolo(outputs: Mapping[str, NDArray[Any]], sizes: NDArray[np.int64], size: tuple[int, int]) -> Outputs:
    """Non-maximum suppression per class; rows without a detection have a score of 0."""
    answer = torch.from_numpy(outputs["output0"]).float().mT  # (B, A, 4 + C), cxcywh in pixels of the input
    shape = (len(answer), TOP)
    labels, boxes = np.zeros(shape, np.int64), np.zeros((*shape, 4), np.float32)
    scores = np.zeros(shape, np.float32)
    scale = np.tile(sizes / np.array(size[::-1]), (1, 2)).astype(np.float32)  # (B, 4)
    for row, image in enumerate(answer):
        best, label = image[:, 4:].max(dim=1)
        kept = best > YOLO_SCORE
        corners = torch.from_numpy(_corners(image[kept, :4].numpy()))
        chosen = batched_nms(corners, best[kept], label[kept], YOLO_IOU)[:TOP]
        labels[row, : len(chosen)] = label[kept][chosen].numpy()
        boxes[row, : len(chosen)] = corners[chosen].numpy() * scale[row]
        scores[row, : len(chosen)] = best[kept][chosen].numpy()
    return Outputs(labels, boxes, scores)


def _corners(boxes_cxcywh: NDArray[Any]) -> NDArray[Any]:
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)
