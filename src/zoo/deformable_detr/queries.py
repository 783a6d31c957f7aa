# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable-DETR's queries: learned points, or in two stages boxes that the encoder proposes."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ...core.errors import ConfigError
from ...nn.mlp import MLP
from ...nn.position import box_sines
from ...nn.types import QueryGroup
from ..heads import class_head
from ..queries import MATCHING, Memory, Proposals, anchor_logits, check_cells, filled_up, gather_rows


class LearnedSplitQueries(nn.Module):
    """Learned queries that start at points: one half of a row is the query's position, the other its content.

    Zhu et al., Deformable DETR, arXiv:2010.04159, without two stages. The points are a linear map of the positions.

    Args:
        num_queries: Q.
        dim: channels D.
    """

    reference_dim = 2

    def __init__(self, num_queries: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_queries, 2 * dim)
        self.reference = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, memory: Memory) -> tuple[QueryGroup, None]:
        """The same queries for every image."""
        position, content = self.embedding.weight.chunk(2, dim=1)
        references = self.reference(position)
        tensors = [tensor.expand(memory.tokens.shape[0], -1, -1) for tensor in (content, references, position)]
        return QueryGroup(MATCHING, tensors[0], tensors[1], position=tensors[2]), None

    def at(self, boxes: Tensor) -> QueryGroup:
        """At the boxes' centres, with the position of the nearest learned point; see ``QueryInit``."""
        position, content = self.embedding.weight.chunk(2, dim=1)
        points = boxes[..., :2]
        nearest = torch.cdist(points.sigmoid(), self.reference(position).sigmoid()).argmin(-1)
        return QueryGroup(MATCHING, content.mean(0).expand(*nearest.shape, -1), points, position[nearest])


class ProposedBoxQueries(nn.Module):
    """Two-stage selection: start queries at the boxes of the cells that look most like an object.

    Zhu et al., Deformable DETR, arXiv:2010.04159. Content and position of a query are made of its box alone. Every cell
    is a proposal of the output, and class 0 of its scores says how much of an object it is
    (``DETRCriterion.binary_proposals``).

    Args:
        num_queries: Q; an image must have at least as many cells (a padded batch gets as many as it lacks).
        dim: channels D, a multiple of 4.
        num_classes: C.
        eps: a cell whose anchor comes closer to 0 or 1 than this is selected only when nothing else is left.
    """

    reference_dim = 4

    def __init__(self, num_queries: int, dim: int, num_classes: int, eps: float = 1e-2) -> None:
        super().__init__()
        self.num_queries, self.dim, self.eps = num_queries, dim, eps
        self.project = nn.Sequential(OrderedDict(proj=nn.Linear(dim, dim), norm=nn.LayerNorm(dim)))
        self.score = class_head(dim, num_classes)
        self.box = MLP(dim, dim, 4, 3).start_at_zero()
        self.embed = nn.Sequential(OrderedDict(proj=nn.Linear(2 * dim, 2 * dim), norm=nn.LayerNorm(2 * dim)))
        for linear in (self.project[0], self.embed[0]):
            nn.init.xavier_uniform_(linear.get_parameter("weight"))

    def forward(self, memory: Memory) -> tuple[QueryGroup, Proposals]:
        """Queries at the selected boxes (no gradient flows back into the selection), and the proposals of all cells."""
        tokens, padding, count = memory.tokens, memory.padding, self.num_queries
        check_cells(memory, count)
        anchors, valid = anchor_logits(memory.sizes, eps=self.eps, device=tokens.device, padding=padding)
        rows = self.project(tokens * valid)
        logits, boxes = self.score(rows).float(), self.box(rows).float() + anchors
        ranked = logits.detach()[..., :1].masked_fill(~valid, -torch.inf)
        selectable = boxes.detach()
        if padding is not None:  # a larger canvas would have had enough cells
            ranked, selectable = filled_up(ranked, count, -torch.inf), filled_up(selectable, count, torch.inf)
        index = ranked[..., 0].topk(count, dim=1).indices
        references = gather_rows(selectable, index)
        return self.at(references), Proposals(index, logits, boxes, binary=True)

    def at(self, boxes: Tensor) -> QueryGroup:
        """See :class:`~isdfine.zoo.queries.QueryInit`; its own are made of their boxes alone too."""
        sines = box_sines(boxes.sigmoid(), self.dim // 2, order="xywh")
        sines = sines.to(self.embed[0].get_parameter("weight").dtype)
        position, content = self.embed(sines).chunk(2, dim=-1)
        return QueryGroup(MATCHING, content, boxes, position)


class GivenPosition(nn.Module):
    """Query positions of a decoder whose queries all bring their own."""

    def forward(self, references: Tensor, content: Tensor, index: int, valid_ratios: Tensor | None) -> Tensor:
        """See :class:`~isdfine.zoo.inputs.QueryPosition`; ConfigError, as some group brings none."""
        raise ConfigError("a query group brings no position, which Deformable-DETR's queries need: give it (B, Q, D)")
