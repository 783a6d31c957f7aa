# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation points: queries that both decoders get, so that what the two say of them is compared one to one.

KD-DETR (arXiv 2211.08071) has random boxes and the teacher's own queries, CLoCKDistill (arXiv 2502.10683) the ground
truth. Points read nothing but their group, and nobody reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..core import dist
from ..nn.boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from ..nn.mlp import MLP
from ..nn.types import QueryGroup, Target

Teller = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Labels (B, K) of the teacher and boxes (B, K, 4) cxcywh -> content (B, K, D) of queries, and their position or None.
"""


class PointDecoder(Protocol):
    """What a decoder must offer to take points; those of ``zoo`` do."""

    widths: list[int]
    """Channels of the queries in each layer."""
    reference_dim: int
    """4 where its queries start at boxes, 2 where they start at points."""

    def queries_at(self, boxes: Tensor) -> QueryGroup:
        """Queries at boxes (B, G, 4) before the sigmoid, with content and position as its own start with."""
        ...

    def class_content(self, labels: Tensor) -> Tensor | None:
        """Content (.., D) of queries that are told their class; None where training knows none."""
        ...


def point_decoder(who: str, role: str, model: nn.Module) -> PointDecoder:
    """The model's decoder.

    Args:
        who: the method, and ``role`` the model, in messages.

    Raises: ValueError where it takes no points.
    """
    decoder: Any = getattr(model, "decoder", model)
    if missing := [name for name in ("widths", "reference_dim", "queries_at") if not hasattr(decoder, name)]:
        raise ValueError(
            f"{who} feeds queries to the {role}'s decoder, but {type(decoder).__name__} has no {missing[0]}: "
            "build it as a Decoder, or choose a method without distillation points"
        )
    taking: PointDecoder = decoder
    return taking


def step_generator(step: int, device: torch.device) -> torch.Generator:
    """Random numbers of one step and rank: equal whoever asks, and after a resume."""
    return torch.Generator(device).manual_seed(step * dist.world_size() + dist.rank())


def general_points(
    name: str, decoder: PointDecoder, count: int, batch: int, generator: torch.Generator, *, zero: bool = False
) -> QueryGroup:
    """Random boxes, the same for every image.

    Args:
        name: of the group.
        decoder: the teacher's, whose queries' first content they hold.
        count: G points.
        batch: B images.
        generator: on the images' device.
        zero: no content at all.

    Returns: boxes whose four numbers are sigmoids of normal ones (B, G, 4), without a position.
    """
    boxes = torch.randn(count, 4, generator=generator, device=generator.device).expand(batch, -1, -1)
    content = decoder.queries_at(boxes).content.detach()
    return QueryGroup(name, torch.zeros_like(content) if zero else content, boxes, supervised=False)


def specific_points(name: str, queries: QueryGroup) -> QueryGroup:
    """The teacher's own queries; those at boxes without a position, which every decoder makes of boxes.

    Args:
        name: of the group.
        queries: what its tap ``queries`` gives.
    """
    given = queries.position if queries.reference_logits.shape[-1] == 2 else None
    position = None if given is None else given.detach()
    return QueryGroup(
        name, queries.content.detach(), queries.reference_logits.detach(), position=position, supervised=False
    )


def target_points(
    name: str,
    targets: Sequence[Target],
    rows: Tensor,
    teller: Teller,
    *,
    copies: int = 3,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> QueryGroup:
    """Copies of all boxes of an image; the boxes of a copy read each other, as in denoising.

    Args:
        name: of the group.
        targets: one per image.
        rows: (C + 1,) int64 the teacher's class of every class, -1 where it knows none and in the last row.
        teller: makes what the queries hold.
        copies: of every box.
        noise: how far an edge of the second copy, and of later ones, moves at most in halves of its box.
        generator: for noise, on the targets' device.

    Returns: (B, copies * M, ..) for the M boxes of the fullest image, copy by copy. Boxes of a class that the teacher
        does not know are padding, as slots are that only fill up the batch; it is visible inside its copy.
    """
    labels = pad_sequence([target["labels"] for target in targets], batch_first=True, padding_value=len(rows) - 1)
    boxes = pad_sequence([target["boxes"].reshape(-1, 4).float() for target in targets], batch_first=True)
    labels = rows[labels.clamp(0, len(rows) - 1)].repeat(1, copies)  # (B, K)
    boxes, padding = boxes.repeat(1, copies, 1), labels < 0
    copy = torch.arange(labels.shape[1], device=labels.device) // max(labels.shape[1] // copies, 1)
    if noise:
        shift = 2 * torch.rand(boxes.shape, generator=generator, device=boxes.device) - 1
        shift = shift * (boxes[..., 2:].repeat(1, 1, 2) / 2) * noise
        boxes = torch.where(copy[:, None] > 0, _moved(boxes, shift), boxes)
    content, position = teller(labels.clamp(min=0), boxes)
    hidden = padding[..., None]
    return QueryGroup(
        name,
        content.detach().masked_fill(hidden, 0),
        inverse_sigmoid(boxes).masked_fill(hidden, 0),
        None if position is None else position.detach().masked_fill(hidden, 0),
        supervised=False,
        mask=copy[:, None] != copy,
        padding=padding,
    )


def _moved(boxes_cxcywh: Tensor, shift: Tensor) -> Tensor:
    """Boxes inside the image with every edge moved; those whose edges crossed keep their size's absolute value."""
    moved = xyxy_to_cxcywh((cxcywh_to_xyxy(boxes_cxcywh) + shift).clamp(0, 1))
    return moved.abs()


def label_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """(C + 1,) the teacher's class of every class up to the last common one, else -1.

    Args:
        student, teacher: (K,) int64 the common classes in the order of each.
    """
    rows = torch.full((int(student.max()) + 2 if len(student) else 1,), -1)
    rows[student.cpu()] = teacher.cpu()
    return rows


def told_by_teacher(decoder: PointDecoder) -> Teller:
    """Queries hold what the teacher's denoising queries hold; each decoder says itself where they look."""

    def teller(labels: Tensor, boxes: Tensor) -> tuple[Tensor, None]:
        content = decoder.class_content(labels)
        assert content is not None, "asked for at build"
        return content, None

    return teller


class FrozenTeller(nn.Module):
    """Random embeddings of classes and boxes that nobody trains, equal in every run; both models get them.

    Args:
        num_classes: C.
        dim: channels D.

    Shapes: see ``Teller``.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.labels, self.boxes = nn.Embedding(num_classes, dim), MLP(4, dim, dim, 2)
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(self.labels.weight, generator=generator)
        for weight in self.boxes.parameters():
            nn.init.uniform_(weight, -(dim**-0.5), dim**-0.5, generator=generator)
        self.requires_grad_(False)

    def forward(self, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Teller``."""
        return self.labels(labels), self.boxes(boxes)


class PointInput(nn.Module):
    """Points as the student's decoder reads them.

    Args:
        decoder: the student's.
        dim: channels of the points' content and position.
    """

    def __init__(self, decoder: PointDecoder, dim: int) -> None:
        super().__init__()
        self._decoder = (decoder,)  # no part of this module
        width = decoder.widths[0]
        # one map for both, which attention adds; without a bias, so that no content stays none
        self.project = nn.Identity() if width == dim else nn.Linear(dim, width, bias=False)

    def forward(self, points: QueryGroup) -> QueryGroup:
        """The same points, their content and position projected where widths differ."""
        position = None if points.position is None else self.project(points.position)
        return placed(replace(points, content=self.project(points.content), position=position), self._decoder[0])


def placed(points: QueryGroup, decoder: PointDecoder) -> QueryGroup:
    """Points at boxes as a decoder reads them; those that are at no boxes stay as they are.

    A decoder that starts at boxes says itself where they look; a position that points bring is added to their content.
    One that starts at points takes the boxes' centres, and that position.
    """
    if points.reference_logits.shape[-1] == 2:
        return points
    start, told = decoder.queries_at(points.reference_logits), points.position
    content, position = points.content, start.position
    if told is not None and decoder.reference_dim == 2:
        position = told
    elif told is not None:
        content = content + told
    return replace(points, content=content, reference_logits=start.reference_logits, position=position)
