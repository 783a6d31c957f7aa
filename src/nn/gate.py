# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What joins a query and what it read: D-FINE's target gating (arXiv 2410.13842), or the residual sum before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TargetGate(nn.Module):
    """Weigh a query and what it read from the image channel by channel: LN(g1 * x1 + g2 * x2).

    The gates are sigmoids of one linear map of both inputs and start at 0.5, so a query that moved to another object
    can drop what it knew about the last one.

    Args:
        dim: channels D.

    Shapes: queries (..., D) and update (..., D) -> (..., D).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, queries: Tensor, update: Tensor) -> Tensor:
        keep, take = self.gate(torch.cat((queries, update), dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(keep * queries + take * update)


class ResidualNorm(nn.LayerNorm):
    """Residual sum of a query and what it read from the image, then layer norm: LN(x1 + x2).

    Args:
        dim: channels D.

    Shapes: queries (..., D) and update (..., D) -> (..., D).
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

    def forward(self, queries: Tensor, update: Tensor) -> Tensor:  # type: ignore[override]  # a sum has two parts
        return super().forward(queries + update)
