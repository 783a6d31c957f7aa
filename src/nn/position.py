# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fixed position tables for tokens of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor


def sine_table(
    height: int,
    width: int,
    dim: int,
    *,
    temperature: float = 10000.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """2-D sine and cosine position table as the published D-FINE and RT-DETR weights expect it.

    Entry ``t = x * height + y`` holds ``[sin(x w), cos(x w), sin(y w), cos(y w)]`` with
    ``w_k = temperature ** (-k / (dim / 4))``, k = 0 .. dim/4 - 1, while tokens are row-major (``t = y * width + x``).
    So the table is transposed for square maps and scrambled for others. Trained weights assume exactly this
    (docs/method.md 2.4); do not repair it.

    Args:
        height, width: size of the map in cells.
        dim: channels D, a multiple of 4.
        temperature: ratio between the slowest and the fastest wave length.
        device: where to build it; nothing is transferred.

    Returns:
        (1, height * width, dim) float32.

    Raises:
        ValueError: if dim is not a positive multiple of 4.
    """
    rows, columns = _waves((height, width), dim, temperature, device)
    waves = [columns[:, None].expand(width, height, dim // 2), rows[None].expand(width, height, dim // 2)]
    return torch.cat(waves, dim=2).reshape(1, height * width, dim)


def grid_table(
    height: int,
    width: int,
    dim: int,
    *,
    temperature: float = 10000.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """The entry that ``sine_table`` gives a token of a square map, on maps of any shape.

    Token ``t = y * width + x`` has ``[sin(y w), cos(y w), sin(x w), cos(x w)]``: equal to ``sine_table`` where height
    and width are equal, and independent of the size of the map, so padding does not change it.

    Args, returns and raises as :func:`sine_table`.
    """
    rows, columns = _waves((height, width), dim, temperature, device)
    waves = [rows[:, None].expand(height, width, dim // 2), columns[None].expand(height, width, dim // 2)]
    return torch.cat(waves, dim=2).reshape(1, height * width, dim)


def _waves(
    size: tuple[int, int], dim: int, temperature: float, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """Sines and cosines of the row numbers (H, D/2) and of the column numbers (W, D/2)."""
    if dim <= 0 or dim % 4:
        raise ValueError(f"a 2-D sine table needs a multiple of 4 channels but got {dim}: change hidden_dim")
    steps = torch.arange(dim // 4, dtype=torch.float32, device=device) / (dim // 4)
    frequencies = 1.0 / temperature**steps
    angles = (torch.arange(side, dtype=torch.float32, device=device)[:, None] * frequencies for side in size)
    rows, columns = (torch.cat([side.sin(), side.cos()], dim=1) for side in angles)
    return rows, columns


POSITION_TABLES = {"official": sine_table, "grid": grid_table}
