# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""FGD: focal and global distillation, objects and background apart, weighted by the teacher's attention; and relations
between all cells (Yang et al., arXiv:2111.11837)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ...core.errors import check_choice, check_non_negative, check_positive
from ...core.registry import register
from ..adapters import AdapterUse
from ..boxmask import BoxCells
from ..context import DistillationContext
from ..features import FeatureDistiller, FeatureTap, PairedMaps
from ..teacher import TeacherOutput

GlobalTeacher = Literal["trainable", "frozen"]


class MapAttention(NamedTuple):
    """Where a map is strong, by the mean absolute value of its cells and channels."""

    cells: Tensor
    """(B, H, W), sums to the number of valid cells; 0 in others."""
    channels: Tensor
    """(B, D), sums to D."""


def map_attention(maps: Tensor, valid: Tensor, temperature: float) -> MapAttention:
    """Softmax of the mean absolute values of maps (B, D, H, W), over valid cells (B, H, W) and over channels."""
    strength = maps.abs().masked_fill(~valid[:, None], 0)
    count = valid.flatten(1).sum(1, keepdim=True)  # (B, 1)
    cells = strength.mean(1).masked_fill(~valid, -torch.inf).flatten(1)
    channels = strength.flatten(2).sum(2) / count
    return MapAttention(
        (count * (cells / temperature).softmax(1)).view_as(valid),
        channels.shape[1] * (channels / temperature).softmax(1),
    )


class FocalLosses(NamedTuple):
    """Scalars, each a sum per image."""

    foreground: Tensor
    background: Tensor
    attention: Tensor


def focal_losses(maps: PairedMaps, cells: BoxCells, temperature: float = 0.5) -> FocalLosses:
    """Squared differences in boxes and elsewhere, weighted by box size and the teacher's attention; the attentions'.

    Args:
        cells: of this level.
        temperature: of the attentions, above 0.
    """
    images = len(maps.teacher)
    student, teacher = (map_attention(side, maps.valid, temperature) for side in (maps.student, maps.teacher))
    error = torch.einsum("bd,bdhw->bhw", teacher.channels, (maps.teacher - maps.student).square())
    weighted = (error * teacher.cells * cells.weight).masked_fill(~maps.valid, 0)
    distance = (teacher.cells - student.cells).abs().sum() + (teacher.channels - student.channels).abs().sum()
    return FocalLosses(
        weighted.masked_fill(~cells.foreground, 0).sum() / images,
        weighted.masked_fill(cells.foreground, 0).sum() / images,
        distance / images,
    )


class GlobalContext(nn.Module):
    """Add to every cell what a map is as a whole (Cao et al., arXiv:1904.11492). At first it adds nothing.

    Args:
        dim: channels D, at least 2.

    Shapes: (B, D, H, W) and (B, H, W) bool of valid cells -> (B, D, H, W).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(dim, 1, kernel_size=1)
        nn.init.kaiming_normal_(self.key.weight, mode="fan_in")
        self.change = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.LayerNorm(dim // 2), nn.ReLU(), last := nn.Linear(dim // 2, dim)
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, maps: Tensor, valid: Tensor) -> Tensor:
        keys = self.key(maps).flatten(1).masked_fill(~valid.flatten(1), -torch.inf)
        context = torch.einsum("bs,bds->bd", keys.softmax(1), maps.flatten(2))
        changed: Tensor = maps + self.change(context)[..., None, None]
        return changed


def global_loss(maps: PairedMaps, student: nn.Module, teacher: nn.Module) -> Tensor:
    """Squared difference of both maps behind their :class:`GlobalContext`, summed over valid cells and channels, per
    image."""
    related: Tensor = teacher(maps.teacher, maps.valid) - student(maps.student, maps.valid)
    return related.square().sum(1).masked_fill(~maps.valid, 0).sum() / len(related)


@register
class FGD(FeatureDistiller):
    """Sums over paired levels: ``loss_fgd_fg``, ``loss_fgd_bg``, ``loss_fgd_at``, ``loss_fgd_gl``.

    Args:
        weight: factor of all four.
        foreground, background, attention, relation: factors of one each. Published ones for one-stage detectors are the
            defaults; for two-stage ones 5e-5, 2.5e-5, 5e-5, 5e-7.
        temperature: of the attentions, above 0.
        gl_teacher: whether the teacher's side of the relations trains too (``trainable``, as published). It can make
            the loss fall by itself: where ``loss_fgd_gl`` is near 0 early, choose ``frozen``.
        tap, adapter, level_map, start: see :class:`~isdfine.distill.features.FeatureDistiller`.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    names = ("loss_fgd_fg", "loss_fgd_bg", "loss_fgd_at", "loss_fgd_gl")

    def __init__(
        self,
        weight: float = 1.0,
        *,
        foreground: float = 1e-3,
        background: float = 5e-4,
        attention: float = 5e-4,
        relation: float = 5e-6,
        temperature: float = 0.5,
        gl_teacher: GlobalTeacher = "trainable",
        tap: FeatureTap = "neck",
        adapter: AdapterUse = "auto",
        level_map: Mapping[int, int] | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, tap=tap, adapter=adapter, level_map=level_map, start=start)
        given = {"foreground": foreground, "background": background, "attention": attention, "relation": relation}
        for name, factor in given.items():
            check_non_negative(f"FGD.{name}", factor)
        self.parts = dict(zip(self.names, given.values()))
        check_positive("FGD.temperature", temperature)
        check_choice("FGD.gl_teacher", gl_teacher, get_args(GlobalTeacher))
        self.temperature = temperature
        self.gl_teacher: GlobalTeacher = gl_teacher
        self.student_context, self.teacher_context = nn.ModuleList(), nn.ModuleList()

    def make_layers(self, widths: list[int]) -> None:
        self.student_context, self.teacher_context = (
            nn.ModuleList(GlobalContext(width) for width in widths) for _ in range(2)
        )
        self.teacher_context.requires_grad_(self.gl_teacher == "trainable")

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        maps = self.maps(context, taught)
        levels = [
            torch.stack((*focal_losses(level, cells, self.temperature), global_loss(level, *contexts)))
            for level, cells, contexts in zip(
                maps, self.box_cells(context, maps), zip(self.student_context, self.teacher_context)
            )
        ]
        return dict(zip(self.names, torch.stack(levels).sum(0).unbind()))
