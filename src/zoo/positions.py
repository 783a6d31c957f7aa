# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where queries look, made of sines of their references (Liu et al., DAB-DETR, arXiv:2201.12329)."""

from __future__ import annotations

from torch import Tensor, nn

from ..nn.mlp import MLP
from ..nn.position import box_sines


class SineQueryPosition(nn.Module):
    """Query positions for deformable attention: a perceptron of the sines of a query's reference box.

    Args:
        dim: channels D.
        scaled: multiply them by a perceptron of the query's content, from the second layer on (DAB-DETR; not DINO).

    Shapes: see :class:`~isdfine.zoo.inputs.QueryPosition`. Where padding is visible boxes count as fractions of the
    finest map, its padding included, as in the published code; else of the image.
    """

    def __init__(self, dim: int, *, scaled: bool) -> None:
        super().__init__()
        self.dim = dim
        self.head = MLP(2 * dim, dim, dim, 2)
        self.scale = MLP(dim, dim, dim, 2) if scaled else None

    def forward(self, references: Tensor, content: Tensor, index: int, valid_ratios: Tensor | None) -> Tensor:
        """See :class:`~isdfine.zoo.inputs.QueryPosition`."""
        if valid_ratios is not None:
            references = references * valid_ratios[:, :1].repeat(1, 1, 2)  # x, y of level 0 for (cx, cy, w, h)
        position: Tensor = self.head(box_sines(references, self.dim // 2))
        return position if self.scale is None or index == 0 else position * self.scale(content)
