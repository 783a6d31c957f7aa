# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Location-and-context-aware memory distillation, one half of CLoCKDistill (Lan and Tian, arXiv:2502.10683)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ...core.errors import check_choice, check_non_negative
from ...core.registry import register
from ..adapters import AdapterUse
from ..boxmask import ROUNDINGS, UNITS, BoxCells, Rounding, Unit
from ..context import DistillationContext
from ..features import FeatureDistiller, PairedMaps
from ..teacher import TeacherOutput

MemoryMask = Literal["location", "none"]


class MemoryLosses(NamedTuple):
    """Scalars, each a sum per image."""

    foreground: Tensor
    background: Tensor


def memory_losses(maps: PairedMaps, foreground: Tensor, weight: Tensor) -> MemoryLosses:
    """Squared differences summed over channels and weighted cells, in and outside boxes.

    Args:
        foreground: (B, H, W) bool.
        weight: (B, H, W), 0 in padding.
    """
    error = (maps.teacher - maps.student).square().sum(1) * weight  # (B, H, W)
    return MemoryLosses(
        error.masked_fill(~foreground, 0).sum() / len(error), error.masked_fill(foreground, 0).sum() / len(error)
    )


@register
class LCMD(FeatureDistiller):
    """Sums over paired levels of the memory: ``loss_lcmd_fg`` in boxes, ``loss_lcmd_bg`` elsewhere.

    Args:
        weight: factor of both.
        foreground, background: factors of one each.
        mask: ``location``: cells of boxes and others apart; ``none``: all cells as if they were of boxes.
        scale_mask: divide by the number of a box's cells, or of cells of none (without ``mask`` of all); or by nothing.
        unit, rounding: see :func:`~isdfine.distill.boxmask.box_cells`.
        adapter, level_map, start: see :class:`~isdfine.distill.features.FeatureDistiller`; all levels share an adapter.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    one_adapter = True
    names = ("loss_lcmd_fg", "loss_lcmd_bg")

    def __init__(
        self,
        weight: float = 1.0,
        *,
        foreground: float = 5e-5,
        background: float = 1e-7,
        mask: MemoryMask = "location",
        scale_mask: bool = True,
        unit: Unit = "cell",
        rounding: Rounding = "covered",
        adapter: AdapterUse = "auto",
        level_map: Mapping[int, int] | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, tap="memory", adapter=adapter, level_map=level_map, start=start)
        check_non_negative("LCMD.foreground", foreground)
        check_non_negative("LCMD.background", background)
        check_choice("LCMD.mask", mask, get_args(MemoryMask))
        check_choice("LCMD.unit", unit, UNITS)
        check_choice("LCMD.rounding", rounding, ROUNDINGS)
        self.parts = dict(zip(self.names, (foreground, background)))
        self.mask: MemoryMask = mask
        self.scale_mask = scale_mask
        self.unit: Unit = unit
        self.rounding: Rounding = rounding

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        maps = self.maps(context, taught)
        cells = self.box_cells(context, maps, self.unit, self.rounding)
        levels = [torch.stack(memory_losses(level, *self.masks(own))) for level, own in zip(maps, cells)]
        return dict(zip(self.names, torch.stack(levels).sum(0).unbind()))

    def masks(self, cells: BoxCells) -> tuple[Tensor, Tensor]:
        """Which cells of a level count as foreground (B, H, W), and what each weighs."""
        if self.mask == "location":
            return cells.foreground, cells.weight if self.scale_mask else cells.valid.float()
        count = cells.valid.flatten(1).sum(1)[:, None, None]
        return cells.valid, cells.valid / count if self.scale_mask else cells.valid.float()
