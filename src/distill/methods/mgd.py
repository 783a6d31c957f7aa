# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""MGD: the student's maps, with cells taken out, must be enough to generate the teacher's (Yang et al.,
arXiv:2205.01529)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import check_share
from ...core.registry import register
from ..adapters import AdapterUse
from ..context import DistillationContext
from ..features import FeatureDistiller, FeatureTap, PairedMaps
from ..teacher import TeacherOutput


class MapGenerator(nn.Module):
    """Two 3x3 convolutions with a ReLU between, which read nothing of padding.

    Args:
        dim: channels D.

    Shapes: (B, D, H, W) and (B, 1, H, W) with 1 in cells to read, 0 in padding -> (B, D, H, W).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(dim, dim, kernel_size=3, padding=1) for _ in range(2))

    def forward(self, maps: Tensor, valid: Tensor) -> Tensor:
        hidden: Tensor = self.first(maps * valid).relu()
        generated: Tensor = self.second(hidden * valid)
        return generated


def mgd_loss(maps: PairedMaps, generator: nn.Module, kept: Tensor) -> Tensor:
    """Squared difference of the generated maps from the teacher's, summed over valid cells and channels, per image.

    Args:
        generator: makes the teacher's maps of the student's, see :class:`MapGenerator`.
        kept: (B, 1, H, W) 0 in cells that it does not see.
    """
    generated: Tensor = generator(maps.student * kept, maps.valid[:, None].float())
    error = (maps.teacher - generated).square().sum(1)  # (B, H, W)
    return error.masked_fill(~maps.valid, 0).sum() / len(error)


@register
class MGD(FeatureDistiller):
    """The sum over paired levels of :func:`mgd_loss`, as ``loss_mgd``; never 0, for cells are taken out by chance.

    Args:
        weight: 2e-5 for one-stage detectors, 5e-7 (with ``masked`` 0.45) for two-stage ones.
        masked: share of cells that are taken out in the mean, in [0, 1]: others at every step, the same for all
            channels.
        options: see :class:`~isdfine.distill.features.FeatureDistiller`.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    names = ("loss_mgd",)

    def __init__(
        self,
        weight: float = 2e-5,
        masked: float = 0.65,
        *,
        tap: FeatureTap = "neck",
        adapter: AdapterUse = "auto",
        level_map: Mapping[int, int] | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, tap=tap, adapter=adapter, level_map=level_map, start=start)
        check_share("MGD.masked", masked)
        self.masked = masked
        self.generators = nn.ModuleList()

    def make_layers(self, widths: list[int]) -> None:
        self.generators = nn.ModuleList(MapGenerator(width) for width in widths)

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        levels = [
            mgd_loss(maps, generator, self.kept(maps.valid))
            for maps, generator in zip(self.maps(context, taught), self.generators)
        ]
        return {"loss_mgd": torch.stack(levels).sum()}

    def kept(self, valid: Tensor) -> Tensor:
        """1 in cells of (B, H, W) that the generator sees, 0 elsewhere: (B, 1, H, W), the same for all channels."""
        return (torch.rand(valid[:, None].shape, device=valid.device) >= self.masked).float()
