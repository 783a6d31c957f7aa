# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model on a validation loader."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ..data.evaluate import CocoEvaluator, EvalResult
from ..nn.padding import image_sizes_of
from ..nn.types import BatchDetections, Predictions
from ..optim.precision import Precision


class PostProcessor(Protocol):
    """Predictions and original sizes (width, height) -> detections in pixels."""

    def __call__(self, predictions: Predictions, orig_target_sizes: Tensor) -> BatchDetections: ...


def detect(
    model: nn.Module,
    postprocessor: PostProcessor,
    images: Tensor,
    targets: Sequence[Mapping[str, Tensor]],
    precision: Precision | None = None,
) -> BatchDetections:
    """Detections of one batch in pixels of the original images.

    Args:
        images: (B, 3, H, W) in [0, 1].
        targets: B dicts with ``orig_size`` (height, width) in pixels; ``image_size`` too in a padded batch.
        precision: of the network; None for float32. Scores and boxes are worked out in float32 from what it says.
    """
    sizes_hw = torch.stack([target["orig_size"] for target in targets])
    with contextlib.nullcontext() if precision is None else precision.autocast():
        predictions = model(images, **image_sizes_of(targets))
    if precision is not None:
        predictions = replace(predictions, logits=predictions.logits.float(), boxes=predictions.boxes.float())
    return postprocessor(predictions, sizes_hw.flip(-1))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    postprocessor: PostProcessor,
    loader: Iterable[tuple[Tensor, list[dict[str, Tensor]]]],
    evaluator: CocoEvaluator,
    *,
    precision: Precision | None = None,
    on_batch: Callable[[], None] | None = None,
) -> EvalResult:
    """COCO metrics of ``model`` in eval mode over the whole loader, gathered from all ranks.

    ``on_batch`` is called after every batch and may raise. The model's train or eval mode is the same afterwards as
    before.
    """
    was_training = model.training
    model.eval()
    evaluator.reset()
    try:
        for images, targets in loader:
            evaluator.update(detect(model, postprocessor, images, targets, precision), targets)
            if on_batch is not None:
                on_batch()
        return evaluator.summarize()
    finally:
        model.train(was_training)
