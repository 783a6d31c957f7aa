# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A frozen detector beside the one that trains, and what it says of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import check_choice
from ..nn.types import DetectorOutput, QueryGroup, Want

T = TypeVar("T")
TeacherPrecision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher:
    """A detector in eval mode whose weights never change.

    It is no module, and the model in it is no part of one: what trains, is averaged, saved, exported or shared between
    processes does not contain it. Its weights take no gradient, but one may pass through its modules to what they read.

    Detectors here read images in [0, 1] and normalise them themselves, so a teacher of any family reads the student's.

    Args:
        model: a detector, on its device.
        precision: of its forward pass; what it returns is float32 in any case.
        resize: (height, width) of the images that it sees; None for those of the student. Boxes are fractions of the
            image, so they need no change.

    Raises: ValueError for another precision, or for no two sides.
    """

    def __init__(
        self, model: nn.Module, *, precision: TeacherPrecision = "fp32", resize: Sequence[int] | None = None
    ) -> None:
        check_choice("teacher.precision", precision, get_args(TeacherPrecision))
        if resize is not None and (len(resize) != 2 or min(resize) < 1):
            raise ValueError(f"teacher.resize is {list(resize)}: give [height, width] in pixels")
        self.model = model.eval().requires_grad_(False)
        self.precision: TeacherPrecision = precision
        self.resize = None if resize is None else (int(resize[0]), int(resize[1]))

    @property
    def decoder(self) -> nn.Module:
        """Its decoder."""
        return self.model.get_submodule("decoder")

    @property
    def taps(self) -> frozenset[str]:
        """Inner tensors that it can return, see ``DetectorOutput.taps``."""
        return getattr(self.model, "taps", frozenset())

    @torch.no_grad()
    def __call__(
        self, images: Tensor, image_sizes: Tensor | None = None, *, groups: Sequence[QueryGroup] = (), want: Want
    ) -> DetectorOutput:
        """Look at a batch.

        Args:
            images: (B, 3, H, W) in [0, 1].
            image_sizes: (B, 2) height and width in pixels of each image inside its canvas; None where it is filled.
            groups: further queries for its decoder.
            want: what to return; in float32.
        """
        canvas, image_sizes = self.place(images, image_sizes)
        if canvas != images.shape[-2:]:
            images = F.interpolate(images.float(), canvas, mode="bilinear", align_corners=False, antialias=True)
        sizes = {} if image_sizes is None else {"image_sizes": image_sizes}
        further = {"groups": groups} if groups else {}
        with self.autocast(images.device):
            output: DetectorOutput = self.model(images, **sizes, **further, want=want)
        return in_float(output)

    def place(self, images: Tensor, image_sizes: Tensor | None) -> tuple[tuple[int, int], Tensor | None]:
        """The canvas (height, width) that it sees of a batch, and what ``image_sizes`` become there."""
        canvas = (images.shape[-2], images.shape[-1])
        if self.resize is None or self.resize == canvas:
            return canvas, image_sizes
        if image_sizes is not None:
            image_sizes = image_sizes * images.new_tensor(self.resize) / images.new_tensor(canvas)
        return self.resize, image_sizes

    def autocast(self, device: torch.device) -> torch.autocast:
        """Its precision, for whoever sends something through its modules; also inside another autocast."""
        dtype = _DTYPES[self.precision]
        return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@dataclass(frozen=True)
class CommonClasses:
    """The classes that student and teacher both know."""

    student: Tensor
    """(K,) int64 columns of the student's class scores."""
    teacher: Tensor
    """(K,) int64 columns of the teacher's, of the same classes in the same order."""
    identical: bool
    """Whether both know the same classes in the same order."""

    @classmethod
    def of(cls, rows: Sequence[int | None], known: int, device: torch.device | str | None = None) -> CommonClasses:
        """From the teacher's column of each of the student's classes, None where it has none; it has ``known``."""
        pairs = [(student, teacher) for student, teacher in enumerate(rows) if teacher is not None]
        columns = torch.tensor(pairs, dtype=torch.int64, device=device).view(-1, 2)
        return cls(columns[:, 0], columns[:, 1], list(rows) == list(range(known)))

    def __len__(self) -> int:
        return len(self.student)

    def of_student(self, logits: Tensor) -> Tensor:
        """(.., C) of the student -> (.., K)."""
        return logits if self.identical else logits.index_select(-1, self.student)

    def of_teacher(self, logits: Tensor) -> Tensor:
        """(.., C) of the teacher -> (.., K)."""
        return logits if self.identical else logits.index_select(-1, self.teacher)


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher says of a step's batch, without a graph."""

    output: DetectorOutput
    """With the taps and the query groups that were asked for."""
    classes: CommonClasses
    teacher: Teacher
    """For methods that send the student's features through its modules."""


def in_float(value: T) -> T:
    """The same with every floating-point tensor in float32: of tensors, lists, tuples, mappings and dataclasses."""
    return _in_float(value)  # type: ignore[no-any-return]


def _in_float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _in_float(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_in_float, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_in_float, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _in_float(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    return value
