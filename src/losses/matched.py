# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A training step from stacked prediction sets to pairs, matched once for all losses.

Row r = b * Q + q stands for query q of image b; the ground-truth boxes of a batch are numbered through, image by image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..core import dist
from ..core.errors import ConfigError
from ..nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from ..nn.types import DetectorOutput, GroupOutput, Target
from .sets import SetStack

DnPadding = Literal["include", "exclude"]


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Host array on the device; from pinned memory, so that the host does not wait for a busy accelerator."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@dataclass(frozen=True)
class TargetTable:
    """Ground truth of a batch, T = sum of ``counts`` boxes in image order."""

    labels: Tensor
    """(T,) int64."""
    boxes: Tensor
    """(T, 4) float32 cxcywh."""
    corners: Tensor
    """(T, 4) float32 xyxy."""
    image: Tensor
    """(T,) int64 image of every box."""
    first: Tensor
    """(B,) int64 number of each image's first box."""
    counts: tuple[int, ...]
    """Boxes per image, known to the host."""

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def starts(self) -> list[int]:
        """B + 1 bounds of the images' blocks."""
        return [0, *np.cumsum(self.counts).tolist()]


def tabulate(targets: Sequence[Target], batch: int, device: torch.device) -> TargetTable:
    """Concatenate the targets of a batch.

    Args:
        targets: one mapping per image with ``labels`` (T,) and ``boxes`` (T, 4) cxcywh fractions.
        batch: images in the predictions.
        device: where the predictions are.

    Raises:
        ValueError: the numbers of images, or of boxes and labels of an image, differ, or a box has not 4 numbers.
    """
    if len(targets) != batch:
        raise ValueError(f"predictions of {batch} images but {len(targets)} targets: give one target per image")
    # views are made only where needed: they count once per image
    labels = [label if label.dim() == 1 else label.reshape(-1) for label in (target["labels"] for target in targets)]
    boxes = [box if box.dim() == 2 else box.reshape(-1, 4) for box in (target["boxes"] for target in targets)]
    for index, (label, box) in enumerate(zip(labels, boxes)):
        if box.shape[-1] != 4:
            raise ValueError(f"targets[{index}] has boxes of shape {tuple(box.shape)}: give (T, 4), cxcywh fractions")
        if len(label) != len(box):
            raise ValueError(f"targets[{index}] has {len(box)} boxes but {len(label)} labels: they belong row to row")
    counts = np.array([len(label) for label in labels], dtype=np.int64)
    image = np.repeat(np.arange(batch), counts)
    packed = to_device(np.concatenate((image, np.cumsum(counts) - counts)), device)
    all_boxes = torch.cat(boxes).to(device=device, dtype=torch.float32)
    return TargetTable(
        labels=torch.cat(labels).to(device=device, dtype=torch.int64),
        boxes=all_boxes,
        corners=cxcywh_to_xyxy(all_boxes),
        image=packed[: len(image)],
        first=packed[len(image) :],
        counts=tuple(counts.tolist()),
    )


@dataclass(frozen=True)
class Pairs:
    """P pairs (query, target) per set: some for the class loss, some for the box losses."""

    query_index: Tensor
    """(S, P) int64 in 0..B*Q-1."""
    target_index: Tensor
    """(S, P) int64 in 0..T-1."""
    matched: slice
    """Columns that a set matched itself: class loss."""
    union: slice
    """Columns of the box losses: the union of all sets' matches, or fixed pairs, equal in every set; or ``matched``
    again where each set is scored on its own matches."""
    padding: Tensor | None = None
    """(B * Q,) bool, rows that only fill up the batch; None where there are none."""


@dataclass(frozen=True)
class Counts:
    """Averages over ranks, scalar tensors: W ranks divide by what one rank with all their images would."""

    matched: Tensor
    """Pairs of the class loss, at least 1 (``num_boxes``)."""
    union: Tensor
    """Pairs of the box losses, at least 1 (``num_boxes_go``)."""
    with_box: Tensor
    """Queries with a box in ``union``."""
    without_box: Tensor
    """All other queries, padding too."""
    padding: Tensor
    """Queries that only fill up the batch."""

    def distilled(self, dn_padding: DnPadding) -> tuple[Tensor, Tensor]:
        """Matched and unmatched queries of a distillation that does, or does not, include padding."""
        return self.with_box, self.without_box if dn_padding == "include" else self.without_box - self.padding


def union_of_matches(query_index: np.ndarray, target_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Union of matches: the pair that most sets matched, for every query (D-FINE's global union; docs/method.md 6.2).

    Args:
        query_index, target_index: any equal shape, matched queries and targets of all sets.

    Returns: query indices (U,) and target indices (U,), most frequent first, ties by (query, target) ascending. A query
        occurs once; a target may have several.
    """
    base = int(target_index.max(initial=0)) + 1
    pairs, frequency = np.unique(query_index.astype(np.int64).ravel() * base + target_index.ravel(), return_counts=True)
    ranked = pairs[np.argsort(-frequency, kind="stable")]  # pairs were ascending, a stable sort keeps that among ties
    _, firsts = np.unique(ranked // base, return_index=True)
    kept = ranked[np.sort(firsts)]
    return kept // base, kept % base


@dataclass(frozen=True)
class MatchedBoxes:
    """Boxes of all pairs and their overlaps, each computed once."""

    predicted: Tensor
    """(S, P, 4) cxcywh."""
    target: Tensor
    """(S, P, 4) cxcywh."""
    iou: Tensor
    """(S, P)."""
    giou: Tensor
    """(S, P)."""


def matched_boxes(stack: SetStack, pairs: Pairs, table: TargetTable, corners: Tensor) -> MatchedBoxes:
    """Gather both sides of all pairs and compare them row by row.

    Args:
        corners: (S, R, 4) xyxy form of ``stack.boxes``.
    """
    both = torch.cat((stack.boxes, corners), -1)  # (S, R, 8)
    both = both.gather(1, pairs.query_index[..., None].expand(-1, -1, 8))
    predicted, predicted_xyxy = both.split(4, -1)
    truth, truth_xyxy = torch.cat((table.boxes, table.corners), -1)[pairs.target_index].split(4, -1)
    return MatchedBoxes(predicted, truth, *paired_iou_and_giou(predicted_xyxy, truth_xyxy))


def pair_up(
    matched: tuple[np.ndarray, np.ndarray],
    stack: SetStack,
    groups: Sequence[tuple[SetStack, GroupOutput]],
    table: TargetTable,
    *,
    union: bool = True,
) -> list[tuple[Pairs, Counts]]:
    """Pairs and counts of the matching queries, then of every extra group.

    Args:
        matched: query and target indices (S, M) from the matcher, on the host.
        stack, groups: the prediction sets.
        table: the batch's targets.
        union: whether the sets' boxes are scored on the union of all matches; else each set's on its own.
    """
    indices = np.stack(matched)  # (2, S, M)
    matches = with_box = indices.shape[2]
    box_pairs = len(table)
    if union:
        union_pairs = np.stack(union_of_matches(*matched))  # (2, U)
        with_box = box_pairs = union_pairs.shape[1]
        indices = np.concatenate((indices, np.broadcast_to(union_pairs[:, None], (2, len(stack), with_box))), 2)
    sizes = [len(table), box_pairs, with_box, stack.rows - with_box]
    for sets, group in groups:
        fixed = group.group.repeats * len(table)
        sizes += [fixed, fixed, fixed, sets.rows - fixed]
    flat = np.concatenate((indices.ravel(), np.array(sizes, dtype=np.int64)))
    packed = to_device(flat, stack.boxes.device)  # the one copy back to the device
    query_index, target_index = packed[: indices.size].view(indices.shape)
    pairs = [Pairs(query_index, target_index, slice(0, matches), slice(matches if union else 0, None))]
    pairs += [fixed_pairs(sets, group, table) for sets, group in groups]
    return list(zip(pairs, _average(packed[indices.size :].float(), pairs)))


def _average(sizes: Tensor, pairs: Sequence[Pairs]) -> list[Counts]:
    """Counts of every group from their local sizes (4 each), in one small all-reduce."""
    nothing = sizes.new_zeros(())
    slots = [group.padding for group in pairs]
    padding = torch.stack([nothing if slot is None else slot.sum().float() for slot in slots])
    average = dist.mean(torch.cat((sizes.view(-1, 4), padding[:, None]), 1))
    norms, queries = average.split((2, 3), 1)
    return [Counts(*row.unbind()) for row in torch.cat((norms.clamp(min=1), queries), 1).unbind()]


def fixed_pairs(stack: SetStack, group: GroupOutput, table: TargetTable) -> Pairs:
    """Pairs of a group that knows its targets, without asking the device how many there are.

    Raises:
        ConfigError: the group has no ``assigned``, or fewer queries than pairs.
    """
    query_group = group.group
    if query_group.assigned is None:
        raise ConfigError(
            f"query group {query_group.name!r} has no assigned targets: give its source's groups `assigned`, or "
            "supervised=False for queries that the criterion does not score"
        )
    count = query_group.repeats * len(table)
    if count > stack.rows:
        raise ConfigError(
            f"query group {query_group.name!r} has {stack.rows} queries for {query_group.repeats} x {len(table)} "
            "targets: repeats must say how often each target stands in assigned"
        )
    assigned = query_group.assigned.flatten()
    # a stable sort puts the assigned queries first; their number is known, so nothing waits for the device
    query_index = (assigned < 0).int().argsort(stable=True)[:count]
    target_index = assigned[query_index] + table.first[query_index // max(stack.queries, 1)]
    padding = None if query_group.padding is None else query_group.padding.flatten()
    everything = slice(0, None)
    return Pairs(
        query_index.expand(len(stack), -1), target_index.expand(len(stack), -1), everything, everything, padding
    )


@dataclass(frozen=True)
class MatchedGroup:
    """The prediction sets of one query group with the pairs they are scored on. R = B * Q rows, K decoder layers."""

    name: str
    """Empty for the matching queries, else the group's name (``dn``)."""
    stack: SetStack
    """The sets; the first K are the decoder layers, of which ``stack.last_layer`` is the deepest."""
    pairs: Pairs
    counts: Counts
    """Averages over ranks."""
    boxes: MatchedBoxes
    table: TargetTable
    """The targets of the whole batch."""

    def matched(self, index: int = 0) -> Tensor:
        """(R,) bool: queries that have a box in set ``index``; with a union, or fixed pairs, the same in every set."""
        rows = self.pairs.query_index[index, self.pairs.union]
        return torch.zeros_like(self.stack.boxes[0, :, 0], dtype=torch.bool).index_fill(0, rows, True)

    def overlaps(self, first: int, last: int) -> Tensor:
        """(last - first, R) IoU of each query's box with its target in the sets ``first:last``, detached; 0 without
        one."""
        here = slice(first, last)
        iou = self.boxes.iou[here, self.pairs.union].detach()
        spread = iou.new_zeros(last - first, self.stack.rows)
        return spread.scatter(1, self.pairs.query_index[here, self.pairs.union], iou)

    def confidence(self, first: int, last: int) -> Tensor:
        """(last - first, R) best class score in (0, 1) of every query in decoder layers ``first:last``, detached."""
        return self.stack.logits[0][first:last].detach().amax(-1).sigmoid()


@dataclass(frozen=True)
class MatchedStep:
    """One training step, matched once for all losses."""

    output: DetectorOutput
    """What the model returned."""
    groups: Sequence[MatchedGroup] = ()
    """The matching queries, then every extra group in the output's order; none of a criterion without such pairs."""
    proposals: MatchedGroup | None = None
    """The encoder's, where they are not as many as the matching queries, else they are one of their sets."""

    @property
    def scored(self) -> list[MatchedGroup]:
        """All that the criterion scores."""
        return [*self.groups, *([] if self.proposals is None else [self.proposals])]

    @property
    def matching(self) -> MatchedGroup:
        """The matching queries."""
        return self.groups[0]
