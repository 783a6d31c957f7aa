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
    (spec/dfine.md section 3, quirk [K]); do not repair it.

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
    if dim <= 0 or dim % 4:
        raise ValueError(f"a 2-D sine table needs a multiple of 4 channels but got {dim}: change hidden_dim")
    steps = torch.arange(dim // 4, dtype=torch.float32, device=device) / (dim // 4)
    frequencies = 1.0 / temperature**steps
    column_angles = torch.arange(width, dtype=torch.float32, device=device)[:, None] * frequencies  # (W, D/4)
    row_angles = torch.arange(height, dtype=torch.float32, device=device)[:, None] * frequencies  # (H, D/4)
    columns = torch.cat([column_angles.sin(), column_angles.cos()], dim=1)[:, None]  # (W, 1, D/2)
    rows = torch.cat([row_angles.sin(), row_angles.cos()], dim=1)[None]  # (1, H, D/2)
    waves = [columns.expand(width, height, dim // 2), rows.expand(width, height, dim // 2)]
    return torch.cat(waves, dim=2).reshape(1, height * width, dim)
