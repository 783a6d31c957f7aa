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
from torch.nn import functional as F

from ..core.errors import ConfigError
from ..nn.boxes import cxcywh_to_xyxy
from ..nn.capture import CROSS_ATTENTION, DENSE_CROSS_ATTENTION, SELF_ATTENTION
from ..nn.padding import Padding
from ..nn.sampling import DeformableAttention
from ..nn.types import DetectorOutput, Want
from ..zoo.decoder import Decoder
from ..zoo.encoders import cell_centres
from ..zoo.heads import FDRBoxHead

_WANTED = frozenset({SELF_ATTENTION, CROSS_ATTENTION, DENSE_CROSS_ATTENTION})
Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class InspectedLayer:
    """One decoder layer; Q queries, P sampling points per head over all levels."""

    references_xyxy_px: Array
    """(Q, 4) the boxes that the layer starts from, without size where these are points."""
    boxes_xyxy_px: Array
    """(Q, 4) the boxes after it."""
    points_px: Array
    """(Q, heads, P, 2) x and y that cross-attention reads at: for dense attention the centres of all cells."""
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
        model: a detector with a ``Decoder``, in eval mode.
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
    with _listening(decoder) as records:
        want = Want(attention=_WANTED & decoder.attention_kinds, taps=frozenset({"memory"}))
        output = model(images, image_sizes=image_sizes, want=want)
    predictions, attention = output.layers[-1], output.attention
    num_points = attention.num_points
    if attention.dense_keys:
        canvas = (images.shape[-2], images.shape[-1])
        padding = None if image_sizes is None else Padding(image_sizes, canvas, whole_cells=True)
        num_points = _note_cells(records, output, padding)
    bins = decoder.box_head.bins if isinstance(decoder.box_head, FDRBoxHead) else None
    scale = torch.tensor([size[1], size[0]], dtype=torch.float32, device=predictions.boxes.device)  # x, y

    def pixels(boxes_cxcywh: Tensor) -> Array:  # points are boxes without size
        return _numpy(cxcywh_to_xyxy(F.pad(boxes_cxcywh[0].float(), (0, 4 - boxes_cxcywh.shape[-1]))) * scale.repeat(2))

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
            point_levels=np.repeat(np.arange(len(num_points)), num_points),
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


def _decoder_of(model: nn.Module) -> Decoder:
    for module in model.modules():
        if isinstance(module, Decoder):
            return module
    raise ConfigError(
        f"{type(model).__name__} has no decoder of our parts: only detectors of the DETR family have pictures"
    )


@contextmanager
def _listening(decoder: Decoder) -> Iterator[_HookRecords]:
    """Note where cross-attention reads, and what the heads say, while the block runs."""
    records = _HookRecords()

    def references(_: nn.Module, args: tuple[Any, ...]) -> None:
        records.references.append(args[1])

    def points(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, DeformableAttention)
        sizes = [(level.shape[2], level.shape[3]) for level in getattr(args[2], "maps", args[2])]
        locations, weights = module.sampling_points(args[0], args[1], sizes)
        records.points.append(locations)
        records.weights.append(weights)

    def head_output(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        records.head_outputs.append(output)

    with ExitStack() as handles:
        for layer in decoder.layers:
            handles.enter_context(layer.register_forward_pre_hook(references))
            for module in layer.modules():
                if isinstance(module, DeformableAttention):
                    handles.enter_context(module.register_forward_pre_hook(points))
        for head in decoder.box_head.layers:
            handles.enter_context(head.register_forward_hook(head_output))
        yield records


def _note_cells(records: _HookRecords, output: DetectorOutput, padding: Padding | None) -> list[int]:
    """Dense attention as points, one per cell of the memory; returns how many there are per level."""
    attention, sizes = output.attention, output.taps["memory"].sizes
    assert attention is not None
    centres = cell_centres(sizes, padding, attention.dense_keys[0].device)  # (1, S, 2)
    for query, key in zip(attention.dense_queries, attention.dense_keys):
        scores = query @ key.mT * query.shape[-1] ** -0.5  # (1, heads, Q, S)
        if attention.key_padding_mask is not None:
            scores = scores.masked_fill(attention.key_padding_mask[:, None, None], -torch.inf)
        records.weights.append(scores.softmax(dim=-1))
        records.points.append(centres[:, None, None].expand(*scores.shape, 2))
    return [height * width for height, width in sizes]


def _numpy(values: Tensor) -> Array:
    array: Array = values.detach().float().cpu().numpy()
    return array
