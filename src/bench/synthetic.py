# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a detector emits in training, made up from a seed: for measuring losses without a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn.queries import split_predictions
from ..nn.types import DetectorOutput, GroupOutput, Predictions, QueryGroup
from ..solver.probe import dummy_boxes
from .timing import check_counts

AGREEMENT = 0.02
"""How far a layer moves a box, in parts of the image: matches differ a little from layer to layer, as in training."""


@dataclass(frozen=True)
class DecoderShapes:
    """Sizes of a training step's outputs; the defaults are those of D-FINE-L on COCO."""

    batch: int = 8
    objects: int = 20
    """Ground-truth boxes of every image."""
    queries: int = 300
    num_classes: int = 80
    layers: int = 6
    reg_max: int = 32
    num_denoising: int = 100
    found: bool = False
    """Every object has a query beside it that knows its class, as after training; else queries lie anywhere."""

    def __post_init__(self) -> None:
        check_counts(self, batch=1, objects=0, queries=1, num_classes=1, layers=1, reg_max=4, num_denoising=0)

    @property
    def denoising_groups(self) -> int:
        """Copies G of the ground truth among the denoising queries."""
        return max(1, self.num_denoising // self.objects) if self.objects and self.num_denoising else 0


@dataclass(frozen=True)
class SyntheticStep:
    """One step's outputs and targets."""

    output: DetectorOutput
    targets: list[dict[str, Tensor]]
    leaves: list[Tensor]
    """What gradients are asked for: one tensor per head over all queries, as the decoder makes them."""


def synthetic_step(shapes: DecoderShapes, seed: int = 0, device: torch.device | str = "cpu") -> SyntheticStep:
    """Decoder layers, first head, encoder proposals and denoising queries, cut from common tensors as in the model.

    Args:
        shapes: how much of it.
        seed: of everything.
        device: of the tensors.
    """
    return _Maker(shapes, seed, torch.device(device)).step()


class _Maker:
    """Draws in a fixed order."""

    def __init__(self, shapes: DecoderShapes, seed: int, device: torch.device) -> None:
        self.shapes, self.device = shapes, device
        self.generator = torch.Generator().manual_seed(seed)
        self.leaves: list[Tensor] = []
        extra = 2 * shapes.denoising_groups * shapes.objects
        self.sizes = [extra, shapes.queries] if shapes.num_denoising else [shapes.queries]

    def step(self) -> SyntheticStep:
        shapes = self.shapes
        targets = [{"labels": self.classes(shapes.objects), "boxes": self.boxes(shapes.objects)}
                   for _ in range(shapes.batch)]  # fmt: skip
        group = self.denoising(targets)
        centre = self.boxes(shapes.batch, shapes.queries)
        if group is not None:
            noise = self.normal(*group.reference_logits.shape) * AGREEMENT
            centre = torch.cat((group.reference_logits + noise, centre), 1)
        leaning = self.normal(*centre.shape[:2], shapes.num_classes) - 4
        if shapes.found:
            self.find(targets, centre[:, -shapes.queries :], leaning[:, -shapes.queries :])
        layers = [split_predictions(self.head(centre, leaning, centre), self.sizes) for _ in range(shapes.layers)]
        initial = split_predictions(self.head(centre, leaning, None), self.sizes)
        proposals = self.head(centre[:, -shapes.queries :], leaning[:, -shapes.queries :], None)
        groups = {}
        if group is not None:
            groups["dn"] = GroupOutput(group, [layer[0] for layer in layers], initial[0])
        output = DetectorOutput(
            layers=[layer[-1] for layer in layers],
            initial=initial[-1],
            proposals=proposals,
            groups=groups,
            up=torch.tensor(0.5, device=self.device),
            reg_scale=torch.tensor(4, device=self.device),
        )
        return SyntheticStep(output, targets, self.leaves)

    def find(self, targets: list[dict[str, Tensor]], boxes: Tensor, logits: Tensor) -> None:
        """Put a query of each image beside every object, as long as there are queries; in place."""
        for target, of_boxes, of_logits in zip(targets, boxes, logits):
            slots = torch.randperm(self.shapes.queries, generator=self.generator)[: self.shapes.objects].to(self.device)
            of_boxes[slots] = target["boxes"][: len(slots)]
            of_logits[slots, target["labels"][: len(slots)]] += 6

    def head(self, boxes: Tensor, logits: Tensor, initial: Tensor | None) -> Predictions:
        """Leaves near common boxes and logits; with ``initial`` also edge distributions that refine it."""
        moved = boxes + self.normal(*boxes.shape) * AGREEMENT
        made = [(logits + 0.3 * self.normal(*logits.shape)), torch.cat((moved[..., :2], moved[..., 2:].abs()), -1)]
        if initial is not None:
            made.append(self.normal(*boxes.shape[:2], 4 * (self.shapes.reg_max + 1)))
        made = [tensor.requires_grad_() for tensor in made]
        self.leaves += made
        return Predictions(made[0], made[1], *((made[2], initial) if initial is not None else ()))

    def denoising(self, targets: list[dict[str, Tensor]]) -> QueryGroup | None:
        """Positives and negatives of every box, G times; None where the model has no denoising."""
        shapes = self.shapes
        if not shapes.num_denoising:
            return None
        slot = torch.arange(self.sizes[0], device=self.device)
        place = slot % max(shapes.objects, 1)
        positive = (slot // max(shapes.objects, 1)) % 2 == 0
        boxes = torch.stack([target["boxes"] for target in targets])[:, place]  # (B, 2GM, 4)
        return QueryGroup(
            name="dn",
            content=boxes.new_zeros(shapes.batch, self.sizes[0], 0),
            reference_logits=boxes,
            assigned=torch.where(positive, place, -1).expand(shapes.batch, -1),
            padding=torch.zeros(shapes.batch, self.sizes[0], dtype=torch.bool, device=self.device),
            repeats=shapes.denoising_groups,
        )

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.device)

    def classes(self, count: int) -> Tensor:
        return torch.randint(self.shapes.num_classes, (count,), generator=self.generator).to(self.device)

    def boxes(self, *shape: int) -> Tensor:
        """(..., 4) cxcywh inside the image."""
        return dummy_boxes(*shape, generator=self.generator).to(self.device)
