# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-grained distribution refinement (FDR): the loop over decoder layers (spec dfine section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ...nn.boxes import inverse_sigmoid
from ...nn.edges import decode_corners, weighting
from ...nn.queries import JoinedQueries
from ...nn.types import Predictions
from .decoder_layer import DecoderLayer


class Heads(NamedTuple):
    """What turns queries into predictions. Official checkpoints keep the heads beside the layers, not among them."""

    position: nn.Module
    """(B, Q, 4) reference boxes -> (B, Q, D) query positions."""
    initial_box: nn.Module
    """(B, Q, D) after layer 0 -> (B, Q, 4) offsets of the box that all distributions refine."""
    scores: nn.ModuleList
    """Per layer (B, Q, D) -> (B, Q, C)."""
    edges: nn.ModuleList
    """Per layer (B, Q, D) -> (B, Q, 4 * (N + 1)), added to the distributions of the layer before."""


class Refined(NamedTuple):
    """The queries after one layer."""

    content: Tensor
    """(B, Q, D)."""
    edge_logits: Tensor
    """(B, Q, 4 * (N + 1)) sum over the layers so far."""
    boxes: Tensor
    """(B, Q, 4) cxcywh that the distributions stand for."""


def enlarge_channels(x: Tensor, dim: int, axis: int = -1) -> Tensor:
    """Repeat channels (c0 c0 c1 c1 ..) until there are ``dim`` of them, which is nearest interpolation."""
    channels = x.shape[axis]
    if channels == dim:
        return x
    return x.index_select(axis, torch.arange(dim, device=x.device) * channels // dim)


class RefinementDecoder(nn.Module):
    """Decoder layers whose edge distributions add up on one fixed box per query.

    Args:
        layers: decoder layers; those after ``eval_idx`` may be wider and run in training only.
        quality: one location quality estimator per layer.
        up, reg_scale: the parameters a and s of the bins, shared with the owner; they are never trained.
        reg_max: N, highest bin index.
        eval_idx: index of the layer that answers in eval mode.
        aux_loss: in training predict after every layer, otherwise after the last only.
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        quality: Sequence[nn.Module],
        *,
        up: nn.Parameter,
        reg_scale: nn.Parameter,
        reg_max: int,
        eval_idx: int,
        aux_loss: bool = True,
    ) -> None:
        super().__init__()
        if reg_max < 4 or reg_max % 2:
            raise ValueError(f"reg_max must be even and at least 4, got {reg_max}: official files use 32")
        self.up = up
        self.reg_scale = reg_scale
        self.layers = nn.ModuleList(layers)
        self.widths = [layer.dim for layer in layers]
        self.lqe_layers = nn.ModuleList(quality)
        self.reg_max = reg_max
        self.eval_idx = eval_idx
        self.aux_loss = aux_loss

    def forward(
        self, queries: JoinedQueries, values: Sequence[Tensor], heads: Heads, *, extent: Tensor | None = None
    ) -> tuple[list[Predictions], Predictions | None]:
        """Run the layers and score their boxes.

        Args:
            queries: all groups, concatenated.
            values: feature maps (B, D, H, W), one per level.
            heads: see :class:`Heads`.
            extent: (B, levels, 2) how much of each map the image spans, see ``Padding.extent``; None for all of it.

        Returns: in training the predictions of every layer (without ``aux_loss`` of the last) and those of the first
            head, after layer 0; in eval mode those of layer ``eval_idx`` alone and None: no later layer runs.
        """
        depth = len(self.layers) if self.training else self.eval_idx + 1
        initial_boxes, steps = self._refine(queries, values, heads, depth, extent)
        base = initial_boxes.detach()
        if not self.training:
            return [self._predict(depth - 1, steps[-1], heads.scores[depth - 1](steps[-1].content), base)], None
        first = heads.scores[0](steps[0].content)
        answers = range(depth) if self.aux_loss else (depth - 1,)
        layers = [
            self._predict(i, steps[i], first if i == 0 else heads.scores[i](steps[i].content), base) for i in answers
        ]
        return layers, Predictions(first.float(), initial_boxes)

    def _predict(self, index: int, step: Refined, scores: Tensor, base: Tensor) -> Predictions:
        """What layer ``index`` answers; the sharpness of its distributions moves the class scores (B, Q, C)."""
        logits = self.lqe_layers[index](scores.float(), step.edge_logits)
        return Predictions(logits, step.boxes, step.edge_logits, base)

    def bin_weights(self) -> Tensor:
        """W(0..N), (N + 1,) float32."""
        return weighting(self.reg_max, self.up, self.reg_scale)

    def _refine(
        self, queries: JoinedQueries, values: Sequence[Tensor], heads: Heads, depth: int, extent: Tensor | None
    ) -> tuple[Tensor, list[Refined]]:
        """The first head's boxes (B, Q, 4) and the queries after each of the first ``depth`` layers."""
        allowed = None if queries.blocked is None else ~queries.blocked
        bins = self.bin_weights()
        content, references = queries.content, queries.reference_logits.float().sigmoid()
        steps: list[Refined] = []
        for layer, dim, edge_head in zip(self.layers[:depth], self.widths, heads.edges):
            position = enlarge_channels(heads.position(references).clamp(-10, 10), dim)
            values = [enlarge_channels(value, dim, axis=1) for value in values]
            before = enlarge_channels(content, dim)
            content = layer(before, references, position, values, allowed, extent=extent)
            if steps:
                edge_logits = edge_head(content + before.detach()).float() + steps[-1].edge_logits
            else:
                initial_boxes = (heads.initial_box(content).float() + inverse_sigmoid(references)).sigmoid()
                edge_logits = edge_head(content).float()
            boxes = decode_corners(initial_boxes.detach(), edge_logits.unflatten(-1, (4, -1)), bins, self.reg_scale)
            references = boxes.detach()
            steps.append(Refined(content, edge_logits, boxes))
        return initial_boxes, steps


class DeployedRefinement(RefinementDecoder):
    """The layers that eval mode needs, with precomputed bins; it cannot be trained.

    Args:
        trained: the decoder to take the layers from (they are shared, not copied).
    """

    _bins: Tensor

    def __init__(self, trained: RefinementDecoder) -> None:
        last = trained.eval_idx
        super().__init__(
            cast(list[DecoderLayer], list(trained.layers[: last + 1])),
            [nn.Identity() for _ in range(last)] + [trained.lqe_layers[last]],
            up=trained.up,
            reg_scale=trained.reg_scale,
            reg_max=trained.reg_max,
            eval_idx=last,
        )
        self.register_buffer("_bins", trained.bin_weights(), persistent=False)
        self.train(trained.training)

    def bin_weights(self) -> Tensor:
        """W(0..N), computed once."""
        return self._bins

    def forward(
        self, queries: JoinedQueries, values: Sequence[Tensor], heads: Heads, *, extent: Tensor | None = None
    ) -> tuple[list[Predictions], Predictions | None]:
        """As :class:`RefinementDecoder` in eval mode."""
        if self.training:
            raise RuntimeError("the deployed form has no training heads: call eval(), or train the model before fuse()")
        return super().forward(queries, values, heads, extent=extent)
