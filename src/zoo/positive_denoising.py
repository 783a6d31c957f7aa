# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Denoising queries without negatives (DN-DETR, arXiv 2203.01305; docs/method.md 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn.boxes import inverse_sigmoid
from ..nn.types import QueryGroup, Target
from .denoising import GROUP_NAME, DenoisingNoise, NoiseSetting, draw_noise, noisy_labels, slots_of
from .queries import MATCHING


@dataclass(frozen=True)
class PositiveSetting(NoiseSetting):
    """``num_denoising`` groups, however many boxes there are; ``label_noise_ratio`` is the probability that a label is
    redrawn; ``box_noise_scale`` is how far a centre moves at most in halves of its box, and how much of its size a box
    gains or loses at most."""

    num_denoising: int = 5
    label_noise_ratio: float = 0.2
    box_noise_scale: float = 0.4
    eps: float = 1e-3
    """Smallest fraction in the logarithms of box logits."""

    def layout_of(self, targets: Sequence[Target]) -> tuple[int, int]:
        """Groups G (0 if there is no box at all) and slots M of each; box j of every image takes slot j of each."""
        width = max((len(target["labels"]) for target in targets), default=0)
        return (self.num_denoising if width else 0), width


class PositiveDenoising(nn.Module):
    """Source of the group ``dn`` for anchor queries; see :func:`positive_group`.

    Args:
        embedding: (C + 1, D - 1) of the classes, shared with the matching queries' initialiser, which reads row C.
        setting: how much noise.
    """

    reference_dim = 4

    def __init__(self, embedding: nn.Embedding, setting: PositiveSetting) -> None:
        super().__init__()
        self.setting = setting
        self.embedding = embedding

    def forward(self, features: Sequence[Tensor], targets: Sequence[Target] | None) -> QueryGroup:
        """See :class:`~isdfine.zoo.queries.GroupSource`."""
        if targets is None:
            raise ValueError("training with num_denoising > 0 needs targets: pass them, or set num_denoising: 0")
        groups, width = self.setting.layout_of(targets)
        num_classes, device = self.embedding.num_embeddings - 1, features[0].device
        noise = draw_noise(len(targets), groups * width, num_classes, self.setting, device)
        return positive_group(targets, noise, self.embedding, self.setting)

    def class_content(self, labels: Tensor) -> Tensor:
        """See :class:`~isdfine.zoo.queries.GroupSource`."""
        return marked(self.embedding(labels))


def positive_group(
    targets: Sequence[Target], noise: DenoisingNoise, embedding: nn.Embedding, setting: PositiveSetting
) -> QueryGroup:
    """Queries made of noisy ground truth, each to be restored; a pure function of its arguments.

    Args:
        targets: one per image; a batch without any box gives a group of zero queries that still reads ``embedding``.
        noise: of G * M slots per image.
        embedding: (C + 1, D - 1); content is a row of it and the number 1, which tells these queries from the matching
            ones, whose last number is 0.
        setting: the same that the noise was drawn with.

    Returns: the group ``dn``, which reads the matching queries too. Slots that only fill up the batch are zeros,
        visible inside their group, and the class loss leaves them out.
    """
    groups, width = setting.layout_of(targets)
    slots = slots_of(targets, groups, width, embedding.num_embeddings - 1)
    content = marked(embedding(noisy_labels(slots, noise, setting.label_noise_ratio)))
    references = inverse_sigmoid(_noisy_boxes(slots.boxes, noise, setting.box_noise_scale), setting.eps)
    return QueryGroup(
        name=GROUP_NAME,
        content=content.masked_fill(slots.padding[..., None], 0),
        reference_logits=references.masked_fill(slots.padding[..., None], 0),
        mask=slots.copy[:, None] != slots.copy,
        attends_to=(MATCHING,),
        assigned=slots.assigned(),
        padding=slots.padding,
        scores_padding=False,
        repeats=groups,
    )


def marked(rows: Tensor) -> Tensor:
    """(.., D - 1) -> (.., D), with the number 1 that tells denoising queries from matching ones."""
    return torch.cat((rows, torch.ones_like(rows[..., :1])), -1)


def _noisy_boxes(boxes_cxcywh: Tensor, noise: DenoisingNoise, scale: float) -> Tensor:
    """(B, K, 4) cxcywh in [0, 1]: centres moved, sizes stretched or shrunk."""
    if noise.signs is None or noise.shifts is None:
        return boxes_cxcywh
    sizes = boxes_cxcywh[..., 2:]
    reach = torch.cat((sizes / 2, sizes), -1) * scale
    return (boxes_cxcywh + (noise.signs * 2.0 - 1.0) * noise.shifts * reach).clamp(0, 1)
