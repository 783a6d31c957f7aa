# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fixed position table for tokens of a feature map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LAYOUTS = ("official", "grid")


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
    if dim <= 0 or dim % 4:
        raise ValueError(f"a 2-D sine table needs a multiple of 4 channels but got {dim}: change hidden_dim")
    steps = torch.arange(dim // 4, dtype=torch.float32, device=device) / (dim // 4)
    frequencies = 1.0 / temperature**steps
    slow_side, fast_side = (width, height) if layout == "official" else (height, width)
    slow, fast = (torch.arange(side, dtype=torch.float32, device=device) for side in (slow_side, fast_side))
    angles = torch.cartesian_prod(slow, fast)[..., None] * frequencies  # (H*W, 2, D/4)
    return torch.cat((angles.sin(), angles.cos()), dim=2).reshape(1, height * width, dim)
