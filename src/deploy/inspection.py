# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the decoder layers do with one image, read by hooks during an ordinary pass in eval mode.

Nothing is added to the model: the hooks are removed before the function returns, and the answer is the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..core.errors import ConfigError
from ..nn.boxes import cxcywh_to_xyxy
from ..nn.capture import SELF_ATTENTION, AttentionRecorder
from ..nn.edges import decode_corners
from ..nn.sampling import DeformableAttention
from ..nn.types import Predictions
from ..zoo.decoder import Decoder
from ..zoo.decoder_layer import DecoderLayer
from ..zoo.heads import FDRBoxHead

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class InspectedLayer:
    """One decoder layer; Q queries, P sampling points per head over all levels."""

    references_xyxy_px: Array
    """(Q, 4) the boxes that the layer starts from."""
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


@dataclass
class _HookRecords:
    """What the hooks collect: one entry per layer in each list."""

    references: list[Tensor] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    head_outputs: list[Tensor] = field(default_factory=list)


@torch.inference_mode()
def inspect_image(
    model: nn.Module, images: Tensor, size: tuple[int, int], image_sizes: Tensor | None = None
) -> Inspection:
    """Run a detector on one image and read its decoder.

    Args:
        model: a detector with a :class:`Decoder`, in eval mode.
        images: (1, 3, H, W) as the model reads them.
        size: (height, width) in pixels that fractions of boxes are multiplied with: the image's own.
        image_sizes: (1, 2) in a padded batch, see ``DETR.forward``.

    Raises:
        ConfigError: another kind of model.
        ValueError: more than one image, or a model in training mode.
    """
    decoder = _decoder_of(model)
    if len(images) != 1 or model.training:
        raise ValueError(f"inspect_image reads one image in eval mode, got {len(images)}: call model.eval() before")
    seen = _HookRecords()
    with _listening(decoder, seen):
        predictions = model(images, **({} if image_sizes is None else {"image_sizes": image_sizes}))
    return _inspection(decoder, predictions, seen, size)


def _decoder_of(model: nn.Module) -> Decoder:
    found = [module for module in model.modules() if isinstance(module, Decoder)]
    if not found:
        raise ConfigError(f"{type(model).__name__} has no decoder of our parts: pictures exist for D-FINE and RT-DETR")
    return found[0]


@contextmanager
def _listening(decoder: Decoder, seen: _HookRecords) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    try:
        for layer in decoder.layers:
            assert isinstance(layer, DecoderLayer)
            handles += _listen(layer, seen)
        for head in decoder.box_head.layers:
            handles.append(head.register_forward_hook(lambda _, __, output: seen.head_outputs.append(output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _listen(layer: DecoderLayer, seen: _HookRecords) -> list[RemovableHandle]:
    """Queries and keys come from a recorder that the layer is handed, as in training; points from their module."""
    recorders: list[AttentionRecorder] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        recorders.append(AttentionRecorder(frozenset({SELF_ATTENTION})))
        seen.references.append(args[1])
        return args, kwargs | {"record": recorders[-1]}

    def after(_: nn.Module, __: tuple[Any, ...], ___: Any) -> None:
        record = recorders.pop().finish([], None)
        query, key = record.queries[0], record.keys[0]  # (B, heads, Q, d)
        seen.maps.append((query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1))

    def reading(module: DeformableAttention) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            points, weights = module.sampling_points(args[0], args[1])
            seen.points.append(points)
            seen.weights.append(weights)

        return note

    assert isinstance(layer.cross_attn, DeformableAttention)
    return [
        layer.register_forward_pre_hook(before, with_kwargs=True),
        layer.register_forward_hook(after),
        layer.cross_attn.register_forward_pre_hook(reading(layer.cross_attn)),
    ]


def _inspection(decoder: Decoder, predictions: Predictions, seen: _HookRecords, size: tuple[int, int]) -> Inspection:
    scale = torch.tensor([size[1], size[0]], dtype=torch.float32, device=predictions.boxes.device)  # x, y

    def pixels(boxes_cxcywh: Tensor) -> Array:
        return _numpy(cxcywh_to_xyxy(boxes_cxcywh[0].float()) * scale.repeat(2))

    head = decoder.box_head
    edges: list[Tensor | None] = [None] * len(seen.points)
    bins: Tensor | None = None
    curvature: Tensor | None = None
    if isinstance(head, FDRBoxHead):
        assert predictions.initial_boxes is not None
        bins, curvature, edges = head.bins(), head.bins.reg_scale, [logits[0] for logits in _summed(seen.head_outputs)]
        boxes = [
            decode_corners(predictions.initial_boxes, logits[None], bins, curvature)
            for logits in edges
            if logits is not None
        ]
    else:  # a layer's boxes are what the next one starts from
        boxes = [*seen.references[1:], predictions.boxes]
    layers = [
        InspectedLayer(
            references_xyxy_px=pixels(references),
            boxes_xyxy_px=pixels(after),
            points_px=_numpy(points[0].transpose(0, 1) * scale),
            point_weights=_numpy(weights[0].transpose(0, 1)),
            point_levels=_levels(layer),
            self_attention=_numpy(maps[0].mean(dim=0)),
            edge_probabilities=None if logits is None else _numpy(logits.softmax(dim=-1)),
        )
        for layer, references, after, points, weights, maps, logits in zip(
            decoder.layers, seen.references, boxes, seen.points, seen.weights, seen.maps, edges
        )
    ]
    return Inspection(
        scores=_numpy(predictions.logits[0].sigmoid()),
        boxes_xyxy_px=pixels(predictions.boxes),
        layers=tuple(layers),
        initial_boxes_xyxy_px=None if bins is None else pixels(predictions.initial_boxes),  # type: ignore[arg-type]
        bin_weights=None if bins is None else _numpy(bins),
        inverse_curvature=None if curvature is None else abs(float(curvature)),
    )


def _summed(head_outputs: Sequence[Tensor]) -> list[Tensor]:
    """Edge logits (B, Q, 4, N + 1) after each layer: every layer's head adds to those before."""
    total: list[Tensor] = []
    for output in head_outputs:
        own = output.float().unflatten(-1, (4, -1))
        total.append(own + total[-1] if total else own)
    return total


def _levels(layer: nn.Module) -> NDArray[np.int64]:
    assert isinstance(layer, DecoderLayer)
    counts = layer.cross_attn.num_points
    return np.repeat(np.arange(len(counts)), counts)


def _numpy(values: Tensor) -> Array:
    array: Array = values.detach().float().cpu().numpy()
    return array
