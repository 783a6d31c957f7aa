# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes without distributions: every layer moves the box of the layer before, as in DINO and RT-DETR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from ...nn.boxes import inverse_sigmoid
from ...nn.capture import AttentionRecorder
from ...nn.mlp import MLP
from ...nn.queries import JoinedQueries
from ...nn.types import Predictions
from .decoder_layer import DecoderLayer
from .stack import DecoderStack, Heads, enlarge_channels, refuse_training


class DirectDecoder(DecoderStack):
    """Decoder layers that predict offsets to their reference box in logit space (docs/method.md 5.5).

    The next layer samples around the new box, detached. The box that a layer is scored by starts from the box of the
    layer before with its gradient ("look forward twice", Zhang et al., DINO, arXiv:2203.03605): a layer learns from the
    error of the next one too. In eval mode both are the same numbers.

    Args:
        layers, eval_idx, aux_loss: see :class:`DecoderStack`.
    """

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
        """Run the layers and score their boxes, see :class:`DecoderStack`; there is no first head."""
        around = self.surroundings(queries, values, extent, record)
        content, references = queries.content, queries.reference_logits.float().sigmoid()
        moved = references
        steps: list[tuple[Tensor, Tensor]] = []  # queries and boxes after each layer
        for index, box_head in zip(range(self.depth(every)), heads.boxes):
            around = around.of_width(self.widths[index])
            content = enlarge_channels(content, self.widths[index])
            content = self.run_layer(index, content, references, heads.position(references), around)
            offsets = box_head(content).float()
            steps.append((content, (offsets + inverse_sigmoid(moved)).sigmoid()))
            moved = (offsets + inverse_sigmoid(references)).sigmoid()
            references = moved.detach()
        last = len(steps) - 1
        answers = range(last + 1) if every and self.aux_loss else (last,)
        layers = [Predictions(heads.scores[i](steps[i][0]).float(), steps[i][1]) for i in answers]
        return layers, None, [content for content, _ in steps]

    def box_heads(self) -> dict[str, nn.Module]:
        """One head of offsets per layer."""
        return {"dec_bbox_head": nn.ModuleList(MLP(width, width, 4, 3).start_at_zero() for width in self.widths)}

    def freeze_silent(self, heads: Heads) -> None:
        """As :class:`DecoderStack`; a box reaches the next layer's with its gradient, and no further."""
        super().freeze_silent(heads)
        heads.boxes[:-2].requires_grad_(False)

    def deployed(self) -> DecoderStack:
        """The layers that eval mode runs."""
        return DeployedDirect(self)


class DeployedDirect(DirectDecoder):
    """The layers that eval mode needs; it cannot be trained.

    Args:
        trained: the decoder to take the layers from (they are shared, not copied).
    """

    def __init__(self, trained: DirectDecoder) -> None:
        last = trained.eval_idx
        super().__init__(cast(list[DecoderLayer], list(trained.layers[: last + 1])), eval_idx=last)
        self.train(trained.training)

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
        """As :class:`DirectDecoder` in eval mode."""
        refuse_training(self, every)
        return super().forward(queries, values, heads, every=every, extent=extent, record=record)
