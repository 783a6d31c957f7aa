# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fixed embeddings of positions: of the tokens of a feature map, and of boxes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .padding import Padding

LAYOUTS = ("official", "grid")
_ENDS = 1e-6
"""Added to counts of cells, as official code does: a row or column without any divides by it."""


def position_table(
    height: int,
    width: int,
    dim: int,
    *,
    layout: Literal["official", "grid"] = "official",
    temperature: float = 10000.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """2-D sine and cosine position table.

    Tokens are row-major (``t = y * width + x``). In the layout ``grid`` a token has
    ``[sin(y w), cos(y w), sin(x w), cos(x w)]`` with ``w_k = temperature ** (-k / (dim / 4))``, k = 0 .. dim/4 - 1,
    whatever the size of the map, so padding does not change it. The layout ``official`` is the one that the published
    D-FINE and RT-DETR weights expect: entry ``t = x * height + y`` holds ``[sin(x w), cos(x w), sin(y w), cos(y w)]``,
    which is ``grid`` on square maps and scrambled on others (docs/method.md 2.4); do not repair it.

    Args:
        height, width: size of the map in cells.
        dim: channels D, a multiple of 4.
        layout: ``official`` or ``grid``.
        temperature: ratio between the slowest and the fastest wave length.
        device: where to build it; nothing is transferred.

    Returns: (1, height * width, dim) float32.

    Raises: ValueError if dim is not a positive multiple of 4.
    """
    _check_width(dim)
    steps = torch.arange(dim // 4, dtype=torch.float32, device=device) / (dim // 4)
    frequencies = 1.0 / temperature**steps
    slow_side, fast_side = (width, height) if layout == "official" else (height, width)
    slow, fast = (torch.arange(side, dtype=torch.float32, device=device) for side in (slow_side, fast_side))
    angles = torch.cartesian_prod(slow, fast)[..., None] * frequencies  # (H*W, 2, D/4)
    return torch.cat((angles.sin(), angles.cos()), dim=2).reshape(1, height * width, dim)


def map_sines(
    size: tuple[int, int],
    dim: int,
    *,
    offset: float = -0.5,
    temperature: float = 10000.0,
    padding: Padding | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Sines and cosines of where a cell lies in its image (Carion et al., DETR, arXiv:2005.12872).

    The first half of the channels counts rows, the other columns: from 1, as a fraction of those that the image spans,
    times 2 pi. Every second channel is a cosine.

    Args:
        size: (height, width) of the map in cells.
        dim: channels D, a multiple of 4.
        offset: added to the counts: -0.5 for centres of cells (Deformable DETR, with temperature 10000), 0 for their
            far edges (DAB-DETR with dense attention, temperature 20).
        temperature: ratio between the slowest and the fastest wave length.
        padding: of the batch; what is counted are cells that hold something of the image. None: they all do.
        device: where to build it without padding; nothing is transferred.

    Returns: (1 or B, height * width, dim) float32, row by row; what stands in padded cells says nothing.

    Raises: ValueError if dim is not a positive multiple of 4.
    """
    _check_width(dim)
    cells = torch.ones((1, *size), device=device) if padding is None else (~padding.mask(size)[:, 0]).float()
    rows, columns = cells.cumsum(1), cells.cumsum(2)  # (B, H, W)
    rows = (rows + offset) / (rows[:, -1:] + _ENDS)
    columns = (columns + offset) / (columns[:, :, -1:] + _ENDS)
    return _sines(torch.stack((rows, columns), dim=-1), dim // 2, temperature).flatten(1, 2)


def box_sines(
    boxes: Tensor, dim: int, *, temperature: float = 10000.0, order: Literal["yxwh", "xywh"] = "yxwh"
) -> Tensor:
    """Sines and cosines of boxes or points, whose numbers are fractions of the image (times 2 pi).

    Args:
        boxes: (..., 4) cxcywh or (..., 2) x and y.
        dim: channels per number, even.
        temperature: ratio between the slowest and the fastest wave length.
        order: of the numbers in the result: ``yxwh`` for queries (Liu et al., DAB-DETR, arXiv:2201.12329), ``xywh`` for
            proposals (Zhu et al., Deformable DETR, arXiv:2010.04159). Points have the first two.

    Returns: (..., 4 * dim) or (..., 2 * dim) float32.
    """
    numbers = boxes.float()
    if order == "yxwh":
        numbers = torch.cat((numbers[..., 1:2], numbers[..., :1], numbers[..., 2:]), dim=-1)
    return _sines(numbers, dim, temperature)


def _sines(numbers: Tensor, dim: int, temperature: float) -> Tensor:
    """(..., n) in turns -> (..., n * dim): of each number sine and cosine by turns, fastest first."""
    steps = torch.arange(dim // 2, dtype=torch.float32, device=numbers.device) * (2 / dim)
    angles = (numbers * (2 * math.pi))[..., None] / temperature**steps  # (..., n, dim / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)


def _check_width(dim: int) -> None:
    if dim <= 0 or dim % 4:
        raise ValueError(f"a 2-D sine table needs a multiple of 4 channels but got {dim}: change hidden_dim")
