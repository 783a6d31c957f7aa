# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the decoder layers do with one image, read during an ordinary pass in eval mode.

Nothing is added to the model: the hooks are removed before the function returns, and the answer is the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.errors import ConfigError
from ..nn.boxes import cxcywh_to_xyxy
from ..nn.capture import CROSS_ATTENTION, SELF_ATTENTION
from ..nn.sampling import DeformableAttention
from ..nn.types import Want
from ..zoo.decoder import Decoder
from ..zoo.heads import FDRBoxHead

_ATTENTION = Want(attention=frozenset({SELF_ATTENTION, CROSS_ATTENTION}))
Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class InspectedLayer:
    """One decoder layer; Q queries, P sampling points per head over all levels."""

    references_xyxy_px: Array
    """(Q, 4) the boxes that the layer starts from; its points are placed relative to them."""
    boxes_xyxy_px: Array
    """(Q, 4) the boxes after it."""
    points_px: Array
    """(Q, heads, P, 2) x and y that cross-attention reads at."""
    point_weights: Array
    """(Q, heads, P) sums to 1 over P."""
    point_levels: NDArray[np.int64]
    """(P,) feature map of each point, 0 is the finest."""
    self_attention: Array
    """(Q, Q) mean over the heads: row i says how much query i takes from each query."""
    edge_probabilities: Array | None
    """(Q, 4, N + 1) distributions of left, top, right, bottom edge; None without FDR."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """One image in one model; boxes in pixels of the image, Q queries."""

    scores: Array
    """(Q, C) sigmoid class scores."""
    boxes_xyxy_px: Array
    """(Q, 4) final boxes."""
    layers: tuple[InspectedLayer, ...]
    """Those that run in eval mode, first to last."""
    initial_boxes_xyxy_px: Array | None
    """(Q, 4) boxes that all distributions refine; None without FDR."""
    bin_weights: Array | None
    """(N + 1,) W(n) in units of the initial box's side / s; None without FDR."""
    inverse_curvature: float | None
    """s > 0; None without FDR."""

    def surest(self, count: int, threshold: float = 0.0) -> list[int]:
        """The ``count`` queries with the highest best class of at least ``threshold``, best first."""
        best = self.scores.max(axis=1)
        order = np.argsort(-best, kind="stable")[:count]
        return [int(query) for query in order if best[query] >= threshold]

    def numbered(self, wanted: Sequence[int] = ()) -> dict[int, InspectedLayer]:
        """Layers by their number in ascending order, the first is 1; those that are wanted, else all.

        Raises:
            ConfigError: there is no such layer.
        """
        layers = dict(enumerate(self.layers, 1))
        if wrong := [number for number in wanted if number not in layers]:
            raise ConfigError(f"--layers {wrong[0]}: the decoder has the layers 1 to {len(layers)}")
        return {number: layers[number] for number in sorted(set(wanted) or layers)}


@dataclass
class _HookRecords:
    """What the hooks collect: one entry per layer in each list."""

    references: list[Tensor] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    head_outputs: list[Tensor] = field(default_factory=list)


@torch.inference_mode()
def inspect_image(
    model: nn.Module, images: Tensor, size: tuple[int, int], image_sizes: Tensor | None = None
) -> Inspection:
    """Run a detector on one image and read its decoder.

    Args:
        model: a detector with a ``Decoder`` (D-FINE, RT-DETR), in eval mode.
        images: (1, 3, H, W) as the model reads them.
        size: (height, width) in pixels that fractions of boxes are multiplied with: the image's own.
        image_sizes: (1, 2) in a padded batch, see ``DETR.forward``.

    Raises:
        ConfigError: another kind of model.
        ValueError: more than one image, or a model in training mode.
    """
    decoder = next((module for module in model.modules() if isinstance(module, Decoder)), None)
    if decoder is None:
        raise ConfigError(f"{type(model).__name__} has no decoder of our parts: pictures exist for D-FINE and RT-DETR")
    if len(images) != 1 or model.training:
        raise ValueError(f"inspect_image reads one image in eval mode, got {len(images)}: call model.eval() before")
    with _listening(decoder) as records:
        output = model(images, image_sizes=image_sizes, want=_ATTENTION)
    predictions, attention = output.layers[-1], output.attention
    bins = decoder.box_head.bins if isinstance(decoder.box_head, FDRBoxHead) else None
    scale = torch.tensor([size[1], size[0]], dtype=torch.float32, device=predictions.boxes.device)  # x, y

    def pixels(boxes_cxcywh: Tensor) -> Array:
        return _numpy(cxcywh_to_xyxy(boxes_cxcywh[0].float()) * scale.repeat(2))

    probabilities: list[Array | None] = [None] * len(records.points)
    if bins is not None:  # the edge logits of a layer are those of all heads up to it
        logits = accumulate(output[0].float().unflatten(-1, (4, -1)) for output in records.head_outputs)
        probabilities = [_numpy(summed.softmax(dim=-1)) for summed in logits]
    layers = [
        InspectedLayer(
            references_xyxy_px=pixels(references),
            boxes_xyxy_px=pixels(after),
            points_px=_numpy(points[0].transpose(0, 1) * scale),
            point_weights=_numpy(weights[0].transpose(0, 1)),
            point_levels=np.repeat(np.arange(len(attention.num_points)), attention.num_points),
            self_attention=_numpy((query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)[0].mean(dim=0)),
            edge_probabilities=edges,
        )
        for references, after, points, weights, query, key, edges in zip(
            records.references, [*records.references[1:], predictions.boxes], records.points, records.weights,
            attention.queries, attention.keys, probabilities,
        )  # a layer's boxes are what the next one starts from
    ]  # fmt: skip
    return Inspection(
        scores=_numpy(predictions.logits[0].sigmoid()),
        boxes_xyxy_px=pixels(predictions.boxes),
        layers=tuple(layers),
        initial_boxes_xyxy_px=pixels(predictions.initial_boxes) if bins is not None else None,
        bin_weights=_numpy(bins()) if bins is not None else None,
        inverse_curvature=abs(float(bins.reg_scale)) if bins is not None else None,
    )


@contextmanager
def _listening(decoder: Decoder) -> Iterator[_HookRecords]:
    """Note where cross-attention reads, and what the heads say, while the block runs."""
    records = _HookRecords()

    def points(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, DeformableAttention)
        locations, weights = module.sampling_points(args[0], args[1])
        records.references.append(args[1])
        records.points.append(locations)
        records.weights.append(weights)

    def head_output(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        records.head_outputs.append(output)

    with ExitStack() as handles:
        for layer in decoder.layers:
            attention = layer.cross_attn
            assert isinstance(attention, DeformableAttention)
            handles.enter_context(attention.register_forward_pre_hook(points))
        for head in decoder.box_head.layers:
            handles.enter_context(head.register_forward_hook(head_output))
        yield records


def _numpy(values: Tensor) -> Array:
    array: Array = values.detach().float().cpu().numpy()
    return array
