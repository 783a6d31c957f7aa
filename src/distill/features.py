# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What methods have in common whose student imitates the teacher's feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from torch import Tensor, nn

from ..core.errors import check_choice
from ..nn.types import DetectorOutput, MemoryTap, Want
from .adapters import ADAPTER_USES, AdapterUse, level_pairs, level_strides, map_adapter, resized
from .boxmask import BoxCells, Rounding, Unit, box_cells, padded_boxes, valid_cells, whole_canvas
from .context import DistillationContext
from .taught import TeacherDistiller
from .teacher import CommonClasses, Teacher, TeacherOutput

FeatureTap = Literal["backbone", "neck", "memory"]
FEATURE_TAPS: tuple[str, ...] = get_args(FeatureTap)


class PairedMaps(NamedTuple):
    """Maps of one level in the teacher's size, (B, D, H, W) each, in float32."""

    student: Tensor
    teacher: Tensor
    """Without a graph."""
    valid: Tensor
    """(B, H, W) bool: cells that hold something of the image."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in cells."""
        height, width = self.teacher.shape[-2:]
        return height, width


class FeatureDistiller(TeacherDistiller):
    """A student that imitates feature maps: levels pair by stride, adapters bring them to the teacher's width.

    Args:
        weight, start: see :class:`~isdfine.distill.taught.TeacherDistiller`.
        tap: which maps: ``backbone``, ``neck`` (behind the encoder), or ``memory`` (as the decoder reads them).
        adapter: between the student's width and the teacher's, see :func:`~isdfine.distill.adapters.map_adapter`.
        level_map: student's level -> teacher's level, 0-based, fine to coarse; None for levels of equal stride.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    one_adapter: ClassVar[bool] = False
    """Whether all levels share one."""

    def __init__(
        self,
        weight: float = 1.0,
        *,
        tap: FeatureTap = "neck",
        adapter: AdapterUse = "auto",
        level_map: Mapping[int, int] | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, start)
        name = type(self).__name__
        check_choice(f"{name}.tap", tap, FEATURE_TAPS)
        check_choice(f"{name}.adapter", adapter, ADAPTER_USES)
        self.tap: FeatureTap = tap
        self.adapter: AdapterUse = adapter
        self.level_map = level_map
        self.want = self.teacher_want = Want(taps=frozenset({tap}))
        self.pairs: list[tuple[int, int]] = []
        self.adapters = nn.ModuleList()

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        name = type(self).__name__
        mine = levels_of(name, "student", student, self.tap)
        theirs = levels_of(name, "teacher", teacher.model, self.tap)
        try:
            self.pairs = level_pairs([stride for _, stride in mine], [stride for _, stride in theirs], self.level_map)
            widths = [(mine[level][0], theirs[other][0]) for level, other in self.pairs]
            made = [map_adapter(*pair, self.adapter) for pair in (widths[:1] if self.one_adapter else widths)]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        self.adapters = nn.ModuleList(made)
        self.make_layers([width for _, width in widths])

    def make_layers(self, widths: list[int]) -> None:
        """Make what else trains with the model, for pairs of maps with these channels of the teacher."""

    def maps(self, context: DistillationContext, taught: TeacherOutput) -> list[PairedMaps]:
        """The paired levels, the student's adapted."""
        mine, theirs = maps_of(context.student, self.tap), maps_of(taught.output, self.tap)
        paired = []
        for index, (level, other) in enumerate(self.pairs):
            target = theirs[other].detach().float()
            adapted = self.adapters[0 if self.one_adapter else index](mine[level].float())
            size = (target.shape[-2], target.shape[-1])
            paired.append(PairedMaps(resized(adapted, size), target, valid_cells(size, *image_place(context))))
        return paired

    def box_cells(
        self, context: DistillationContext, maps: list[PairedMaps], unit: Unit = "cell", rounding: Rounding = "covered"
    ) -> list[BoxCells]:
        """Whose boxes' the cells of each level are.

        Raises: ValueError for a criterion that does not pair boxes and queries.
        """
        if not context.step.groups:
            raise ValueError(
                f"{type(self).__name__} needs ground-truth boxes, but the criterion pairs none with queries"
            )
        boxes = padded_boxes(context.step.matching.table)
        place = image_place(context)
        return [box_cells(*boxes, level.size, *place, unit=unit, rounding=rounding) for level in maps]


def image_place(context: DistillationContext) -> tuple[tuple[int, int], Tensor]:
    """The canvas (height, width) of a step and (B, 2) sizes of the images in it, in pixels."""
    images = context.images
    assert images is not None, "a teacher answers images"
    canvas = (images.shape[-2], images.shape[-1])
    sizes = context.image_sizes
    return canvas, whole_canvas(canvas, len(images), images.device) if sizes is None else sizes.to(images.device)


def levels_of(who: str, role: str, model: nn.Module, tap: FeatureTap) -> list[tuple[int, int]]:
    """(channels, stride) of the maps at a tap, fine to coarse.

    Raises:
        ValueError: the part that gives them does not say.
    """
    part = {"backbone": "backbone", "neck": "encoder", "memory": "decoder"}[tap]
    giver = getattr(model, part, None)
    if tap == "memory":
        strides, widths = getattr(giver, "feat_strides", None), getattr(giver, "widths", None)
        projection = getattr(giver, "projection", None)
        if strides and widths and projection is not None:
            return [(widths[0], stride) for stride in level_strides(strides, len(projection))]
    elif (channels := getattr(giver, "channels", None)) and (strides := getattr(giver, "strides", None)):
        return list(zip(channels, strides))
    needed = "feat_strides, widths and projection" if tap == "memory" else "channels and strides"
    raise ValueError(
        f"{who} pairs maps by stride, but the {part} of the {role} ({type(giver).__name__}) does not say what it gives "
        f"at the tap {tap}: give it {needed}, or choose another tap"
    )


def maps_of(output: DetectorOutput, tap: FeatureTap) -> list[Tensor]:
    """Maps (B, D, H, W) of a tap, fine to coarse."""
    tapped = output.taps[tap]
    if not isinstance(tapped, MemoryTap):
        return list(tapped)
    cells = [height * width for height, width in tapped.sizes]
    levels = tapped.tokens.split(cells, dim=1)
    return [tokens.mT.unflatten(2, size) for tokens, size in zip(levels, tapped.sizes)]
