# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where a decoder's queries come from: the initialiser of the matching queries, and sources of further groups."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ConfigError
from ..nn.boxes import inverse_sigmoid
from ..nn.keys import before_load
from ..nn.mlp import MLP
from ..nn.padding import Padding
from ..nn.types import Predictions, QueryGroup, Target
from .heads import class_head

MATCHING = ""
"""Name of the group of matching queries."""


@dataclass(frozen=True)
class Memory:
    """What the decoder reads. (No named tuple: torch 2.6 cannot compile properties of these.)"""

    maps: list[Tensor]
    """(B, D, H, W) per level."""
    tokens: Tensor
    """(B, S, D), S cells of all levels, row by row, level by level."""
    padding: Padding | None

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every level in cells."""
        return [(level.shape[2], level.shape[3]) for level in self.maps]

    def padded_cells(self) -> Tensor:
        """(B, S) bool, True for cells that hold nothing of the image; there is a padding."""
        assert self.padding is not None
        return torch.cat([self.padding.mask(size).flatten(1) for size in self.sizes], dim=1)

    @classmethod
    def of(cls, maps: list[Tensor], padding: Padding | None) -> Memory:
        """The memory of maps (B, D, H, W), fine to coarse."""
        return cls(maps, torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1), padding)


class QueryInit(Protocol):
    """Makes the matching queries; a module, called once per forward pass."""

    reference_dim: int
    """4 where its queries start at boxes, 2 where they start at points."""

    def __call__(self, memory: Memory) -> tuple[QueryGroup, Proposals | None]:
        """The group ``""``, and the encoder's proposals where there are any."""
        ...

    def at(self, boxes: Tensor) -> QueryGroup:
        """Queries at boxes (B, G, 4) before the sigmoid; they hold the mean of what is learned, or zeros."""
        ...


class GroupSource(Protocol):
    """Makes a further group of queries; a module, called in train mode, and in eval mode where targets are given.

    Denoising is one, and so is whatever stands in ``sources`` of a detector. Where queries are told a class, it has
    ``class_content(labels)``: (..) -> (.., D).
    """

    def __call__(self, features: Sequence[Tensor], targets: Sequence[Target] | None) -> QueryGroup:
        """From the encoder's maps (B, channels[i], H, W), fine to coarse, and the ground truth.

        Raises ValueError where it needs targets and there are none.
        """
        ...


@dataclass(frozen=True)
class Proposals:
    """Memory rows that seed the matching queries, best first."""

    index: Tensor
    """(B, Q) int64 row of the flattened memory."""
    logits: Tensor
    """(B, Q, C), or (B, Q, 1) for class-agnostic selection; of all S rows where ``binary``."""
    box_logits: Tensor
    """(B, Q, 4) cxcywh before the sigmoid, or (B, S, 4)."""
    binary: bool = False
    """Whether every row proposes, and its first class tells objects from background."""

    def predictions(self) -> Predictions:
        """As the criterion reads them."""
        return Predictions(self.logits, self.box_logits.sigmoid())


class BoxEmbedding(MLP):
    """Query positions: reference boxes (B, Q, 4) -> (B, Q, D).

    Args:
        dim: channels D.
        limit: largest absolute value of the result; None for no limit.
    """

    def __init__(self, dim: int, *, limit: float | None = None) -> None:
        super().__init__(4, 2 * dim, dim, 2)
        self.limit = limit

    def forward(
        self, x: Tensor, content: Tensor | None = None, index: int = 0, valid_ratios: Tensor | None = None
    ) -> Tensor:
        """See :class:`~isdfine.zoo.inputs.QueryPosition`; boxes are all that counts here."""
        embedded = super().forward(x)
        return embedded if self.limit is None else embedded.clamp(-self.limit, self.limit)


def initialise(position: BoxEmbedding, queries: TopKQueries) -> None:
    """Draw the weights of the embedding and of the projection, as the official code does after those of the heads."""
    for linear in (*position.layers, queries.project[0]):
        nn.init.xavier_uniform_(linear.get_parameter("weight"))


def learned_content(num_queries: int, dim: int) -> nn.Embedding:
    """Content (Q, D) of queries that is learned."""
    content = nn.Embedding(num_queries, dim)
    nn.init.xavier_uniform_(content.weight)
    return content


class TopKQueries(nn.Module):
    """Two-stage selection: score every cell of the memory, and start queries at the boxes of the best ones.

    Args:
        num_queries: Q; an image must have at least as many cells (a padded batch gets as many as it lacks).
        dim: channels D.
        num_scores: C, or 1 for ``agnostic``.
        method: ``default``, ``agnostic`` or ``one2many``, see ``zoo.queries``.
        eps: a cell whose anchor comes closer to 0 or 1 than this is selected only when nothing else is left.
        learned: content of the queries (Q, D), whatever their cells hold (DINO's mixed selection); None to take it from
            the selected cells.
        stored_sizes: (height, width) of the levels whose anchors are kept in the state dict; None for none.
    """

    anchors: Tensor
    valid_mask: Tensor
    rebuilt_buffers: tuple[str, ...] = ("anchors", "valid_mask")
    reference_dim = 4

    def __init__(
        self,
        num_queries: int,
        dim: int,
        num_scores: int,
        method: str = "default",
        eps: float = 1e-2,
        learned: nn.Embedding | None = None,
        stored_sizes: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.num_queries, self.dim, self.eps = num_queries, dim, eps
        if method not in SELECTORS:
            raise ValueError(f"query_select_method {method!r} is unknown: choose one of {list(SELECTORS)}")
        self.select_rows = SELECTORS[method]
        self.stored_sizes = stored_sizes
        if stored_sizes is not None:
            anchors, valid = anchor_logits(stored_sizes, eps=eps)
            self.register_buffer("anchors", anchors)
            self.register_buffer("valid_mask", valid)
        self.learned = learned
        self.project = nn.Sequential(OrderedDict(proj=nn.Linear(dim, dim), norm=nn.LayerNorm(dim)))
        self.score = class_head(dim, num_scores)
        self.box = MLP(dim, dim, 4, 3).start_at_zero()
        before_load(self, _keep_tables)

    def forward(self, memory: Memory) -> tuple[QueryGroup, Proposals]:
        """Queries at the selected boxes (no gradient flows back into the selection), and what was selected."""
        padding, tokens, count = memory.padding, memory.tokens, self.num_queries
        check_cells(memory, count)
        anchors, valid = self._anchors(memory)
        if padding is not None:  # a larger canvas would have had enough cells
            tokens = filled_up(tokens, count, 0)
            anchors, valid = filled_up(anchors, count, torch.inf), filled_up(valid, count, 0)
        rows = self.project(tokens * valid)
        logits = self.score(rows)
        ranked = logits.detach()
        if padding is not None:
            padded = memory.padded_cells()[..., None]
            ranked = ranked.masked_fill(filled_up(padded, count, 1), -torch.inf)
        index = self.select_rows(ranked, count)
        content = gather_rows(rows, index)
        offsets = self.box(content).float()
        boxes = offsets + gather_rows(anchors.expand(tokens.shape[0], -1, -1), index)
        proposals = Proposals(index, gather_rows(logits, index).float(), boxes)
        if self.learned is not None:
            content = self.learned.weight.expand(content.shape[0], -1, -1)
        else:
            content = content.detach()
        return QueryGroup(MATCHING, content, boxes.detach()), proposals

    def at(self, boxes: Tensor) -> QueryGroup:
        """See :class:`QueryInit`."""
        zeros = boxes.new_zeros(*boxes.shape[:2], self.dim)
        return QueryGroup(MATCHING, zeros if self.learned is None else zeros + self.learned.weight.mean(0), boxes)

    def _anchors(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Anchor logits (1 or B, S, 4) and validity (1 or B, S, 1): in eval mode the stored tables where they fit."""
        if memory.padding is None and not self.training and memory.sizes == self.stored_sizes:
            return self.anchors, self.valid_mask
        return anchor_logits(memory.sizes, eps=self.eps, device=memory.tokens.device, padding=memory.padding)


class LearnedAnchorQueries(nn.Module):
    """Learned queries that start at learned boxes (Liu et al., DAB-DETR, arXiv:2201.12329).

    Args:
        num_queries: anchors.
        dim: channels D.
        content: ``learned`` per anchor, or ``zeros``.
        num_patterns: learned vectors that are added to the content of every anchor; 0 for none. There are
            num_patterns * num_queries queries then, pattern by pattern.
        fixed_centres: spread the boxes' centres evenly over the image, and do not train them.
    """

    reference_dim = 4

    def __init__(
        self,
        num_queries: int,
        dim: int,
        *,
        content: Literal["learned", "zeros"] = "learned",
        num_patterns: int = 0,
        fixed_centres: bool = False,
    ) -> None:
        super().__init__()
        if content not in ("learned", "zeros"):
            raise ValueError(f"content {content!r} of anchor queries is unknown: choose one of learned, zeros")
        if num_patterns < 0:
            raise ValueError(f"num_patterns must be 0 (none) or more, got {num_patterns}: 3 in DAB-DETR")
        self.num_queries, self.dim, self.fixed_centres = num_queries, dim, fixed_centres
        self.anchors = nn.Embedding(num_queries, 4)  # logits of (cx, cy, w, h)
        if fixed_centres:
            with torch.no_grad():
                self.anchors.weight[:, :2] = inverse_sigmoid(torch.rand(num_queries, 2))
        self.content = nn.Embedding(num_queries, dim) if content == "learned" else None
        self.patterns = nn.Embedding(num_patterns, dim) if num_patterns else None

    def forward(self, memory: Memory) -> tuple[QueryGroup, None]:
        """The same queries for every image."""
        content, anchors = self.rows(), self.anchors.weight
        if self.fixed_centres:
            anchors = torch.cat((anchors[:, :2].detach(), anchors[:, 2:]), dim=1)
        if self.patterns is not None:
            patterns = self.patterns.weight
            anchors = anchors.repeat(len(patterns), 1)
            content = content.repeat(len(patterns), 1) + patterns.repeat_interleave(self.num_queries, dim=0)
        batch = memory.tokens.shape[0]  # not len(): a graph would hold that number
        return QueryGroup(MATCHING, content.expand(batch, -1, -1), anchors.expand(batch, -1, -1)), None

    def at(self, boxes: Tensor) -> QueryGroup:
        """See :class:`QueryInit`."""
        content = self.rows().mean(0) + (0 if self.patterns is None else self.patterns.weight.mean(0))
        return QueryGroup(MATCHING, content.expand(*boxes.shape[:2], -1), boxes)

    def rows(self) -> Tensor:
        """(num_queries, D) content of the anchors."""
        return (
            self.anchors.weight.new_zeros(self.num_queries, self.dim) if self.content is None else self.content.weight
        )


def _keep_tables(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Let computed tables keep their values: a checkpoint may be for images of another size."""
    for name in TopKQueries.rebuilt_buffers:
        if name in module._buffers and prefix + name in state:
            state[prefix + name] = module._buffers[name]


GRID_SIZE = 0.05
"""Width and height of level 0's anchors as a fraction of the image; doubled on every next level."""


def anchor_logits(
    sizes: Sequence[tuple[int, int]],
    *,
    eps: float = 1e-2,
    device: torch.device | str | None = None,
    padding: Padding | None = None,
) -> tuple[Tensor, Tensor]:
    """One anchor box per memory row, in the space of box logits (docs/method.md 3.1).

    The box of level l is centred in its cell with width and height 0.05 * 2^l; l is the index of the level, whatever
    its stride (checkpoints rely on it).

    Args:
        sizes: (height, width) of every level in cells.
        eps: an anchor is valid when all four numbers lie strictly inside (eps, 1 - eps).
        device: of the result; that of the padding where there is one.
        padding: makes boxes fractions of each image without it; centres in the padding are then beyond 1, so invalid.

    Returns: logits (1, S, 4) float32, +inf in the rows of invalid anchors; valid (1, S, 1) bool. S sums all cells,
        row by row, level by level. With padding the first dimension is B.
    """
    centres = [_centres(size, device) for size in sizes] if padding is None else padding.centres(sizes)
    levels = [_level_anchors(y, x, GRID_SIZE * 2**level) for level, (y, x) in enumerate(centres)]
    anchors = torch.cat(levels, dim=-2)
    anchors = anchors.view(-1, *anchors.shape[-2:])  # (1 or B, S, 4)
    valid = ((anchors > eps) & (anchors < 1 - eps)).all(dim=-1, keepdim=True)
    logits = torch.log(anchors / (1 - anchors))
    return logits.masked_fill(~valid, torch.inf), valid


def _centres(size: tuple[int, int], device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    """Cell centres as fractions of the map: y (H,) and x (W,)."""
    y, x = ((torch.arange(cells, dtype=torch.float32, device=device) + 0.5) / cells for cells in size)
    return y, x


def _level_anchors(y: Tensor, x: Tensor, side: float) -> Tensor:
    """Centres (..., H) and (..., W) -> (..., H*W, 4) boxes."""
    rows, columns = torch.broadcast_tensors(y[..., :, None], x[..., None, :])
    sides = torch.full_like(rows, side)
    return torch.stack((columns, rows, sides, sides), dim=-1).flatten(-3, -2)


def best_class_rows(logits: Tensor, count: int) -> Tensor:
    """Rows with the highest best class score, (B, S, C) -> (B, count) int64, best first."""
    return logits.amax(dim=-1).topk(count, dim=-1).indices


def one_score_rows(logits: Tensor, count: int) -> Tensor:
    """Rows with the highest objectness, (B, S, 1) -> (B, count) int64, best first."""
    return logits.squeeze(-1).topk(count, dim=-1).indices


def best_pair_rows(logits: Tensor, count: int) -> Tensor:
    """Rows of the highest (row, class) scores, (B, S, C) -> (B, count) int64; a row may come several times."""
    return logits.flatten(1).topk(count, dim=-1).indices // logits.shape[-1]


SELECTORS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "default": best_class_rows,
    "agnostic": one_score_rows,
    "one2many": best_pair_rows,
}


def check_cells(memory: Memory, count: int) -> None:
    """Refuse an image with fewer cells than queries (ConfigError); a padded batch may be filled up."""
    cells = memory.tokens.shape[1]
    if memory.padding is None and cells < count:
        raise ConfigError(
            f"the image has {cells} cells over all levels but num_queries is {count}: "
            "use larger images or fewer queries"
        )


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Pick rows of every image: rows (B, S, D), index (B, Q) int64 -> (B, Q, D)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def filled_up(rows: Tensor, count: int, value: float) -> Tensor:
    """(B, S, D) with further rows of one value where there are fewer than ``count``."""
    missing = count - rows.shape[1]
    return F.pad(rows, (0, 0, 0, missing), value=value) if missing > 0 else rows
