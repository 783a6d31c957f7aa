# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Contrastive denoising queries (DINO, arXiv 2203.03605; docs/method.md 3.3): ground truth to be restored.

``zoo.positive_denoising`` has DN-DETR's, which came before and know no negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..nn.boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from ..nn.types import QueryGroup, Target
from .queries import MATCHING

GROUP_NAME = "dn"
DUMMY_BOX = (0.5, 0.5, 0.1, 0.1)
"""Around which the queries of a batch without boxes lie, cxcywh."""


class DenoisingNoise(NamedTuple):
    """Random numbers of one batch, in the order in which they are drawn; K slots per image."""

    flip: Tensor | None
    """(B, K) uniform in [0, 1): the label is replaced below half the noise ratio. None without label noise."""
    labels: Tensor | None
    """(B, K) int64 in [0, C), the replacements. None without label noise."""
    signs: Tensor | None
    """(B, K, 4) int64 in {0, 1}: an edge moves towards smaller or larger values. None without box noise."""
    shifts: Tensor | None
    """(B, K, 4) uniform in [0, 1): how far, in halves of the box. None without box noise."""


@dataclass(frozen=True)
class NoiseSetting:
    """How much noise there is, and how many queries carry it; a kind of denoising says what the numbers mean."""

    num_denoising: int
    """0 turns denoising off."""
    label_noise_ratio: float
    """In [0, 1]."""
    box_noise_scale: float
    """0 or more, in halves of a box."""

    def __post_init__(self) -> None:
        if self.num_denoising < 0:
            raise ValueError(f"num_denoising must be 0 (off) or more, got {self.num_denoising}")
        if not 0 <= self.label_noise_ratio <= 1:
            raise ValueError(f"label_noise_ratio must be between 0 and 1, got {self.label_noise_ratio}")
        if self.box_noise_scale < 0:
            raise ValueError(f"box_noise_scale must be 0 (off) or more, got {self.box_noise_scale}")


@dataclass(frozen=True)
class DenoisingSetting(NoiseSetting):
    """``num_denoising`` positive queries are aimed at per image; ``label_noise_ratio`` is twice the probability that a
    label is redrawn; ``box_noise_scale`` is how far a positive's edge moves at most in halves of its box: negatives
    move between one and two times as far."""

    swap_crossed: bool = True
    """A box whose edges crossed reads as if they had changed places (D-FINE); False: its size is 0 (DINO, RT-DETR)."""
    dummy_group: bool = False
    """A batch without any box gets one group of two queries around a made-up box, to be found empty (RT-DETR); False: a
    group of no queries."""
    few_are_groups: bool = False
    """With fewer than 50, ``num_denoising`` is half the number of groups, however many boxes there are (DINO)."""
    centred_padding: bool = False
    """Padded slots start in the middle of the image with half its size (DINO); False: in its corner, without a size."""
    eps: float = 1e-5
    """Smallest fraction in the logarithms of box logits; DINO has 1e-3."""

    def layout_of(self, targets: Sequence[Target]) -> tuple[int, int]:
        """:func:`layout` of a batch."""
        return layout(
            [len(target["labels"]) for target in targets],
            self.num_denoising,
            dummy_group=self.dummy_group,
            few_are_groups=self.few_are_groups,
        )


class Denoising(nn.Module):
    """Source of the group ``dn``: ground truth with noise, to be restored; see :func:`denoising_group`.

    Args:
        num_classes: C.
        dim: channels D.
        setting: how much noise.
    """

    reference_dim = 4

    def __init__(self, num_classes: int, dim: int, setting: DenoisingSetting) -> None:
        super().__init__()
        self.setting = setting
        self.embedding = nn.Embedding(num_classes + 1, dim, padding_idx=num_classes)

    def forward(self, features: Sequence[Tensor], targets: Sequence[Target] | None) -> QueryGroup:
        """See :class:`~isdfine.zoo.queries.GroupSource`."""
        if targets is None:
            raise ValueError("training with num_denoising > 0 needs targets: pass them, or set num_denoising: 0")
        groups, width = self.setting.layout_of(targets)
        num_classes, device = self.embedding.num_embeddings - 1, features[0].device
        noise = draw_noise(len(targets), 2 * groups * width, num_classes, self.setting, device)
        return denoising_group(targets, noise, self.embedding, self.setting)

    def class_content(self, labels: Tensor) -> Tensor:
        """See :class:`~isdfine.zoo.queries.GroupSource`."""
        content: Tensor = self.embedding(labels)
        return content


def draw_noise(batch: int, slots: int, num_classes: int, setting: NoiseSetting, device: torch.device) -> DenoisingNoise:
    """Draw what :func:`denoising_group` needs, on ``device``: at most four draws, always in the same order."""
    flip = labels = signs = shifts = None
    if setting.label_noise_ratio > 0:
        flip = torch.rand(batch, slots, device=device)
        labels = torch.randint(0, num_classes, (batch, slots), device=device)
    if setting.box_noise_scale > 0:
        signs = torch.randint(0, 2, (batch, slots, 4), device=device)
        shifts = torch.rand(batch, slots, 4, device=device)
    return DenoisingNoise(flip, labels, signs, shifts)


def layout(
    counts: Sequence[int], num_denoising: int, *, dummy_group: bool = False, few_are_groups: bool = False
) -> tuple[int, int]:
    """How a batch with these numbers of boxes is laid out; the options are those of :class:`DenoisingSetting`.

    Returns: groups G (0 if there is no box at all, 1 with ``dummy_group``) and the width M of half a group. Each group
        holds M positive, then M negative queries; box j of every image takes slot j of both, so an image has 2 * G * M
        slots.
    """
    width = max(counts, default=0)
    if width:
        few = few_are_groups and num_denoising < 50
        return 2 * num_denoising if few else max(1, num_denoising // width), width
    return (1, 1) if dummy_group else (0, 0)


class Slots(NamedTuple):
    """The ground truth of a batch in K slots per image: copy by copy, in each the boxes of the image and padding."""

    labels: Tensor
    """(B, K) int64, in 0..C; C where there is none."""
    boxes: Tensor
    """(B, K, 4) cxcywh float32, zeros where there is none."""
    padding: Tensor
    """(B, K) bool, True where there is none."""
    copy: Tensor
    """(K,) int64 number of the slot's copy."""
    box_index: Tensor
    """(K,) int64 place within it, which is the box's number in its image."""

    def assigned(self, negative: Tensor | None = None) -> Tensor:
        """(B, K) number of each slot's box, -1 for padding and for ``negative`` (K,) slots."""
        index = self.box_index if negative is None else self.box_index.masked_fill(negative, -1)
        return index.expand_as(self.labels).masked_fill(self.padding, -1)


def slots_of(targets: Sequence[Target], copies: int, width: int, filler: int) -> Slots:
    """Lay out a batch; ``width`` 1 for one without any box gives dummies, ``filler`` is C."""
    labels = pad_sequence([target["labels"] for target in targets], batch_first=True, padding_value=filler)
    boxes = pad_sequence([target["boxes"].reshape(-1, 4) for target in targets], batch_first=True)  # (B, M, 4)
    real = pad_sequence([torch.ones_like(target["labels"], dtype=torch.bool) for target in targets], batch_first=True)
    if missing := width - labels.shape[1]:  # the dummy group
        labels, real = F.pad(labels, (0, missing), value=filler), F.pad(real, (0, missing))
        boxes = labels.new_tensor(DUMMY_BOX, dtype=torch.float32).expand(*labels.shape, 4)
    slot = torch.arange(copies * width, device=labels.device)
    return Slots(
        # A label outside the head must reach the matcher, which names it, and not end in an index error here.
        labels=labels.repeat(1, copies).clamp(0, filler),
        boxes=boxes.float().repeat(1, copies, 1),
        padding=~real.repeat(1, copies),
        copy=slot // max(width, 1),
        box_index=slot % max(width, 1),
    )


def noisy_labels(slots: Slots, noise: DenoisingNoise, probability: float) -> Tensor:
    """(B, K) labels, some of the real ones replaced."""
    if noise.flip is None or noise.labels is None:
        return slots.labels
    replaced = (noise.flip < probability) & ~slots.padding
    return torch.where(replaced, noise.labels.to(slots.labels.dtype), slots.labels)


def denoising_group(
    targets: Sequence[Target], noise: DenoisingNoise, embedding: nn.Embedding, setting: DenoisingSetting
) -> QueryGroup:
    """Queries made of noisy ground truth; a pure function of its arguments.

    Args:
        targets: one per image; a batch without any box gives a group of zero queries that still reads ``embedding``.
        noise: from :func:`draw_noise`, with as many slots as :func:`layout` says.
        embedding: C + 1 rows; row C is that of slots that only fill up the batch, whose content is zero.
        setting: the same that the noise was drawn with.

    Returns: the group ``dn``, which reads the matching queries too. Padded slots stay visible inside their group.
    """
    groups, width = setting.layout_of(targets)
    slots = slots_of(targets, 2 * groups, width, embedding.num_embeddings - 1)
    negative = slots.copy % 2 == 1
    content = embedding(noisy_labels(slots, noise, setting.label_noise_ratio * 0.5))
    references = inverse_sigmoid(_noisy_boxes(slots.boxes, negative, noise, setting), setting.eps)
    if setting.centred_padding:
        references = references.masked_fill(slots.padding[..., None], 0)
    return QueryGroup(
        name=GROUP_NAME,
        content=content.masked_fill(slots.padding[..., None], 0),
        reference_logits=references,
        mask=slots.copy[:, None] // 2 != slots.copy // 2,
        attends_to=(MATCHING,),
        assigned=slots.assigned(negative),
        padding=slots.padding,
        repeats=groups,
    )


def _noisy_boxes(boxes_cxcywh: Tensor, negative: Tensor, noise: DenoisingNoise, setting: DenoisingSetting) -> Tensor:
    """(B, K, 4) cxcywh boxes inside the image, every edge moved; ``negative`` (K,) marks those that move further."""
    if noise.signs is None or noise.shifts is None:
        return boxes_cxcywh
    half_size = boxes_cxcywh[..., 2:].repeat(1, 1, 2) * 0.5
    shift = (noise.signs * 2.0 - 1.0) * (noise.shifts + negative[:, None]) * half_size * setting.box_noise_scale
    noisy = xyxy_to_cxcywh((cxcywh_to_xyxy(boxes_cxcywh) + shift).clamp(0, 1))
    return noisy.abs() if setting.swap_crossed else noisy  # crossed edges give negative sizes
