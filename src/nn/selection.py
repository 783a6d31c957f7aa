# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Two-stage query selection: anchors on the memory grid and the choice of the rows that seed the queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .padding import Padding

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


def selector(method: str) -> Callable[[Tensor, int], Tensor]:
    """The selection rule of one ``query_select_method``; ValueError with the choices for an unknown one."""
    if method not in SELECTORS:
        raise ValueError(f"query_select_method {method!r} is unknown: choose one of {list(SELECTORS)}")
    return SELECTORS[method]


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Pick rows of every image: rows (B, S, D), index (B, Q) int64 -> (B, Q, D)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def filled_up(rows: Tensor, count: int, value: float) -> Tensor:
    """(B, S, D) with further rows of one value where there are fewer than ``count``."""
    missing = count - rows.shape[1]
    return F.pad(rows, (0, 0, 0, missing), value=value) if missing > 0 else rows
