# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction sets stacked where their shapes agree, and the targets of a batch in one table.

Row r = b * Q + q stands for query q of image b; the ground-truth boxes of a batch are numbered through, image by image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..nn.boxes import cxcywh_to_xyxy
from ..nn.types import DetectorOutput, GroupOutput, Predictions, Target


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Host array on the device; from pinned memory, so that the host does not wait for a busy accelerator."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@dataclass(frozen=True)
class SetStack:
    """S prediction sets of the same queries, stacked. The first K sets carry distributions."""

    suffixes: tuple[str, ...]
    """One per set, appended to the losses' names."""
    logits: tuple[Tensor, ...]
    """(S_i, R, C_i) float32 for neighbouring sets with equal C; the S_i add up to S."""
    boxes: Tensor
    """(S, R, 4) float32 cxcywh."""
    edge_logits: Tensor | None
    """(K, R, 4, N + 1) float32, or None without FDR heads."""
    initial_boxes: Tensor | None
    """(R, 4) float32 boxes that all K sets refine, or None."""
    batch: int
    queries: int
    teacher: int
    """Which of the first K sets is the deepest layer: it teaches the others."""

    def __len__(self) -> int:
        return len(self.suffixes)

    @property
    def rows(self) -> int:
        """R, queries of all images."""
        return self.batch * self.queries

    def only(self, index: int) -> SetStack:
        """A stack of one set, for matching."""
        start = 0
        for block in self.logits:
            if index < start + len(block):
                logits = (block[index - start, None],)
                boxes = self.boxes[index, None]
                return SetStack((self.suffixes[index],), logits, boxes, None, None, self.batch, self.queries, 0)
            start += len(block)
        raise IndexError(f"set {index} of {len(self)}")


def stack_sets(sets: Sequence[tuple[str, Predictions]], num_layers: int) -> SetStack:
    """Stack named sets over the same queries; the first ``num_layers`` are decoder layers, the last of them teaches.

    Raises:
        ValueError: the sets do not share batch size and number of queries.
    """
    shapes = {name or "final": tuple(one.boxes.shape[:2]) for name, one in sets}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"prediction sets must share (batch, queries), got {shapes}: their rows are the same queries")
    batch, queries = sets[0][1].boxes.shape[:2]
    blocks: list[list[Tensor]] = []
    for _, one in sets:
        if not blocks or blocks[-1][0].shape != one.logits.shape:
            blocks.append([])
        blocks[-1].append(one.logits)
    layers = [one for _, one in sets[:num_layers]]
    edges = [one.edge_logits for one in layers if one.edge_logits is not None]
    initial = layers[-1].initial_boxes if layers else None
    return SetStack(
        suffixes=tuple(name for name, _ in sets),
        logits=tuple(torch.stack(block).float().flatten(1, 2) for block in blocks),
        boxes=torch.stack([one.boxes for _, one in sets]).float().flatten(1, 2),
        edge_logits=torch.stack(edges).float().flatten(1, 2).unflatten(-1, (4, -1)) if edges else None,
        initial_boxes=None if initial is None else initial.detach().float().flatten(0, 1),
        batch=batch,
        queries=queries,
        teacher=num_layers - 1,
    )


def matching_sets(output: DetectorOutput, *, proposals_as_layer: bool = False) -> SetStack:
    """The sets that are matched: every layer (the last has no suffix), the initial head, the encoder's proposals.

    The proposals are called ``_enc_0``, or like one more layer before the last (RT-DETR's first version).
    """
    last = len(output.layers) - 1
    sets = [("" if i == last else f"_aux_{i}", one) for i, one in enumerate(output.layers)]
    if output.initial is not None:
        sets.append(("_pre", output.initial))
    if output.proposals is not None:
        sets.append((f"_aux_{last}" if proposals_as_layer else "_enc_0", output.proposals))
    return stack_sets(sets, len(output.layers))


def group_sets(name: str, group: GroupOutput) -> SetStack:
    """The sets of an extra query group: every layer and the initial head."""
    sets = [(f"_{name}_{i}", one) for i, one in enumerate(group.layers)]
    if group.initial is not None:
        sets.append((f"_{name}_pre", group.initial))
    return stack_sets(sets, len(group.layers))


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
    labels = [one["labels"] if one["labels"].dim() == 1 else one["labels"].reshape(-1) for one in targets]
    boxes = [one["boxes"] if one["boxes"].dim() == 2 else one["boxes"].reshape(-1, 4) for one in targets]
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
