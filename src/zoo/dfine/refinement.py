# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-grained distribution refinement (FDR): the loop over decoder layers (docs/method.md 5.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ...nn.boxes import inverse_sigmoid
from ...nn.capture import AttentionRecorder
from ...nn.edges import decode_corners, weighting
from ...nn.mlp import MLP
from ...nn.quality import LocationQualityEstimator
from ...nn.queries import JoinedQueries
from ...nn.types import Predictions
from .decoder_layer import DecoderLayer
from .stack import DecoderStack, Heads, Surroundings, enlarge_channels, refuse_training


class Refined(NamedTuple):
    """The queries after one layer."""

    content: Tensor
    """(B, Q, D)."""
    edge_logits: Tensor
    """(B, Q, 4 * (N + 1)) sum over the layers so far."""
    boxes: Tensor
    """(B, Q, 4) cxcywh that the distributions stand for."""


class RefinementDecoder(DecoderStack):
    """Decoder layers whose edge distributions add up on one fixed box per query.

    Args:
        layers, eval_idx, aux_loss: see :class:`DecoderStack`.
        quality: one location quality estimator per layer; None for new ones.
        up, reg_scale: the parameters a and s of the bins, shared with the owner.
        reg_max: N, highest bin index.
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        quality: Sequence[nn.Module] | None = None,
        *,
        up: nn.Parameter,
        reg_scale: nn.Parameter,
        reg_max: int,
        eval_idx: int,
        aux_loss: bool = True,
    ) -> None:
        super().__init__(layers, eval_idx=eval_idx, aux_loss=aux_loss)
        if reg_max < 4 or reg_max % 2:
            raise ValueError(f"reg_max must be even and at least 4, got {reg_max}: official files use 32")
        self.up = up
        self.reg_scale = reg_scale
        self.reg_max = reg_max
        if quality is None:
            quality = [LocationQualityEstimator(reg_max) for _ in layers]
        self.lqe_layers = nn.ModuleList(quality)

    def forward(
        self,
        queries: JoinedQueries,
        values: Sequence[Tensor],
        heads: Heads,
        *,
        every: bool,
        extent: Tensor | None = None,
        record: AttentionRecorder | None = None,
    ) -> tuple[list[Predictions], Predictions | None, list[Tensor]]:
        """Run the layers and score their boxes, see :class:`DecoderStack`."""
        around = self.surroundings(queries, values, extent, record)
        initial_boxes, steps = self._refine(queries, heads, around, every)
        base, last = initial_boxes.detach(), len(steps) - 1
        hidden = [step.content for step in steps]
        if not every:
            return [self._predict(last, steps[-1], heads.scores[last](steps[-1].content), base)], None, hidden
        first = heads.scores[0](steps[0].content)
        answers = range(last + 1) if self.aux_loss else (last,)
        layers = [
            self._predict(i, steps[i], first if i == 0 else heads.scores[i](steps[i].content), base) for i in answers
        ]
        return layers, Predictions(first.float(), initial_boxes), hidden

    def box_heads(self) -> dict[str, nn.Module]:
        """The head of the box that all distributions refine, and one head of edge logits per layer."""
        dim, num_logits = self.widths[0], 4 * (self.reg_max + 1)
        initial = MLP(dim, dim, 4, 3).start_at_zero()
        edges = nn.ModuleList(MLP(width, width, num_logits, 3).start_at_zero() for width in self.widths)
        return {"pre_bbox_head": initial, "dec_bbox_head": edges}

    def bins(self) -> Mapping[str, nn.Parameter]:
        """a and s."""
        return {"up": self.up, "reg_scale": self.reg_scale}

    def freeze_silent(self, heads: Heads) -> None:
        """As :class:`DecoderStack`; the first score head answers with the initial box."""
        self.lqe_layers[:-1].requires_grad_(False)
        heads.scores[1:-1].requires_grad_(False)

    def deployed(self) -> DecoderStack:
        """With precomputed bins."""
        return DeployedRefinement(self)

    def _predict(self, index: int, step: Refined, scores: Tensor, base: Tensor) -> Predictions:
        """What layer ``index`` answers; the sharpness of its distributions moves the class scores (B, Q, C)."""
        logits = self.lqe_layers[index](scores.float(), step.edge_logits)
        return Predictions(logits, step.boxes, step.edge_logits, base)

    def bin_weights(self) -> Tensor:
        """W(0..N), (N + 1,) float32."""
        return weighting(self.reg_max, self.up, self.reg_scale)

    def _refine(
        self, queries: JoinedQueries, heads: Heads, around: Surroundings, every: bool
    ) -> tuple[Tensor, list[Refined]]:
        """The first head's boxes (B, Q, 4) and the queries after each layer that runs."""
        assert heads.initial_box is not None
        bins = self.bin_weights()
        content, references = queries.content, queries.reference_logits.float().sigmoid()
        steps: list[Refined] = []
        for index, edge_head in zip(range(self.depth(every)), heads.boxes):
            position = heads.position(references).clamp(-10, 10)
            around = around.of_width(self.widths[index])
            before = enlarge_channels(content, self.widths[index])
            content = self.run_layer(index, before, references, position, around)
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
        self.register_buffer("_bins", trained.bin_weights().detach(), persistent=False)
        self.train(trained.training)

    def bin_weights(self) -> Tensor:
        """W(0..N), computed once."""
        return self._bins

    def forward(
        self,
        queries: JoinedQueries,
        values: Sequence[Tensor],
        heads: Heads,
        *,
        every: bool,
        extent: Tensor | None = None,
        record: AttentionRecorder | None = None,
    ) -> tuple[list[Predictions], Predictions | None, list[Tensor]]:
        """As :class:`RefinementDecoder` in eval mode."""
        refuse_training(self, every)
        return super().forward(queries, values, heads, every=every, extent=extent, record=record)


def bin_parameters(up: float, reg_scale: int | float, *, learnable: bool) -> tuple[nn.Parameter, nn.Parameter]:
    """a and s as official checkpoints hold them: one number each, s as int64 where it was given as int and is fixed."""
    if up <= 0:
        raise ValueError(f"up is {up}: half the width of the inner bins must be above 0, 0.5 in official files")
    if reg_scale <= 0:
        raise ValueError(
            f"reg_scale is {reg_scale}: no bins would have any width; for bins of equal width give a small one, 0.01"
        )
    scale = torch.tensor([float(reg_scale) if learnable else reg_scale])
    return nn.Parameter(torch.tensor([float(up)]), learnable), nn.Parameter(scale, learnable)
