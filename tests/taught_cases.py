# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Small students and teachers, batches and steps for tests of distillation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isdfine.distill.context import DistillationContext, Distiller
from isdfine.distill.objective import Objective
from isdfine.distill.taught import Lesson, TeacherDistiller
from isdfine.distill.teacher import CommonClasses, Teacher
from isdfine.nn.padding import IMAGE_SIZE
from isdfine.zoo.detr import DETR
from isdfine.zoo.dfine.decoder import DFINETransformer
from losses.cases import official_criterion

CLASSES, BINS, SIZE = 4, 8, (64, 96)


class Maps(nn.Module):
    """A backbone: two maps at strides 16 and 32."""

    strides = (16, 32)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channels = [dim, dim]
        self.patch = nn.Conv2d(3, dim, 16, stride=16)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.patch(images)
        return [fine, F.avg_pool2d(fine, 2)]


class Neck(nn.Module):
    """An encoder: a 1x1 convolution."""

    strides = (16, 32)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_channels = self.channels = [dim, dim]
        self.mix = nn.Conv2d(dim, dim, 1)

    def forward(self, maps: list[Tensor], padding: object = None) -> list[Tensor]:
        return [self.mix(level) for level in maps]


def detector(seed: int = 0, *, dim: int = 16, classes: int = CLASSES, **options: Any) -> DETR:
    """A detector with a D-FINE decoder whose weights are away from the zeros that training starts from; train mode."""
    torch.manual_seed(seed)
    decoder = DFINETransformer(
        **{
            "num_classes": classes, "hidden_dim": dim, "num_queries": 8, "feat_channels": [dim, dim],
            "feat_strides": [16, 32], "num_levels": 2, "num_points": [2, 2], "nhead": 2, "num_layers": 2,
            "dim_feedforward": 2 * dim, "num_denoising": 6, "reg_max": BINS, "dropout": 0.0, **options,
        }
    )  # fmt: skip
    model = DETR(Maps(dim), Neck(dim), decoder)
    for name, weight in model.named_parameters():
        if weight.requires_grad and not name.endswith(("reg_scale", "up")):
            nn.init.normal_(weight, std=0.15)
    return model.train()


def copied(model: nn.Module, **options: Any) -> DETR:
    """Another detector with the same weights."""
    other = detector(**options)
    other.load_state_dict(model.state_dict())
    return other


def batch(boxes: Sequence[int] = (3, 1), *, seed: int = 0, size: tuple[int, int] = SIZE, padded: bool = False) -> tuple:
    """Images (B, 3, H, W) and targets with as many boxes; ``padded``: the last image fills half of its canvas."""
    random = torch.Generator().manual_seed(seed)
    images, targets = torch.rand(len(boxes), 3, *size, generator=random), []
    for index, count in enumerate(boxes):
        sides = 0.1 + 0.3 * torch.rand(count, 2, generator=random)
        centres = sides / 2 + torch.rand(count, 2, generator=random) * (1 - sides)
        target = {"boxes": torch.cat((centres, sides), -1), "labels": torch.arange(count) % CLASSES}
        if padded:
            width = size[1] // 2 if index == len(boxes) - 1 else size[1]
            target[IMAGE_SIZE] = torch.tensor([float(size[0]), float(width)])
            images[index, :, :, width:] = 0
        targets.append(target)
    return images, targets


def lesson(teacher: nn.Module, classes: Sequence[int | None] = range(CLASSES), **mix: float) -> Lesson:
    """Of a teacher whose column of each student class is given."""
    known = len(teacher.decoder.score_head(0, torch.zeros(1, 1, teacher.decoder.widths[0]))[0, 0])
    return Lesson(Teacher(teacher), CommonClasses.of(classes, known), **mix)


def taught(
    student: DETR, teacher: nn.Module, *methods: Distiller, classes: Sequence[int | None] = range(CLASSES), **mix: float
) -> Objective:
    """The objective of a student with methods that have met its teacher."""
    known = lesson(teacher, classes, **mix)
    objective = Objective(official_criterion(CLASSES, BINS), methods, known)
    for method in methods:
        method.check(student, objective.criterion)
        if isinstance(method, TeacherDistiller):
            method.prepare(student, known.teacher, known.classes)
    return objective


def step(objective: Objective, student: DETR, given: tuple | None = None, **moment: Any) -> DistillationContext:
    """One pass of teacher and student over a batch, matched."""
    images, targets = given or batch()
    return objective.run(student, images, targets, **moment)


def terms_of(objective: Objective, student: DETR, given: tuple | None = None, **moment: Any) -> dict[str, Tensor]:
    """All weighted losses of a step."""
    return objective.terms(step(objective, student, given, **moment))
