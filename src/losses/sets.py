# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The prediction sets of a training step, named and stacked where their shapes agree.

Row r = b * Q + q stands for query q of image b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..nn.types import DetectorOutput, GroupOutput, Predictions

_NOTHING = -1e4
"""Logit of a score that is 0 in float32: as background it costs nothing, as a confidence it weighs nothing."""


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
    last_layer: int
    """Which of the first K sets is the deepest layer."""

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
    shapes = {name or "final": tuple(predictions.boxes.shape[:2]) for name, predictions in sets}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"prediction sets must share (batch, queries), got {shapes}: their rows are the same queries")
    batch, queries = sets[0][1].boxes.shape[:2]
    blocks: list[list[Tensor]] = []
    for _, predictions in sets:
        if not blocks or blocks[-1][0].shape != predictions.logits.shape:
            blocks.append([])
        blocks[-1].append(predictions.logits)
    layers = [predictions for _, predictions in sets[:num_layers]]
    edges = [layer.edge_logits for layer in layers if layer.edge_logits is not None]
    initial = layers[-1].initial_boxes if layers else None
    return SetStack(
        suffixes=tuple(name for name, _ in sets),
        logits=tuple(torch.stack(block).float().flatten(1, 2) for block in blocks),
        boxes=torch.stack([predictions.boxes for _, predictions in sets]).float().flatten(1, 2),
        edge_logits=torch.stack(edges).float().flatten(1, 2).unflatten(-1, (4, -1)) if edges else None,
        initial_boxes=None if initial is None else initial.detach().float().flatten(0, 1),
        batch=batch,
        queries=queries,
        last_layer=num_layers - 1,
    )


def matching_sets(
    output: DetectorOutput, *, proposals_as_layer: bool = False, apart: bool = False
) -> tuple[SetStack, SetStack | None]:
    """Sets of the matching queries: every layer (the last has no suffix), the initial head, the encoder's proposals.

    The proposals are called ``_enc_0``, or like one more layer before the last (RT-DETR's first version). With
    ``apart``, and where their number is not that of the queries (a loss over every cell), they are other queries: the
    second stack, else None.
    """
    last, others = len(output.layers) - 1, None
    sets = [("" if index == last else f"_aux_{index}", layer) for index, layer in enumerate(output.layers)]
    if output.initial is not None:
        sets.append(("_pre", output.initial))
    if output.proposals is not None:
        proposals = (f"_aux_{last}" if proposals_as_layer else "_enc_0", output.proposals)
        if apart or output.proposals.boxes.shape[1] != output.layers[-1].boxes.shape[1]:
            others = stack_sets([proposals], 0)
        else:
            sets.append(proposals)
    return stack_sets(sets, len(output.layers)), others


def group_sets(name: str, group: GroupOutput) -> SetStack:
    """The sets of an extra query group: every layer and the initial head.

    Slots that only fill up the batch say nothing where the group does not have them scored.
    """
    sets = [(f"_{name}_{index}", layer) for index, layer in enumerate(group.layers)]
    if group.initial is not None:
        sets.append((f"_{name}_pre", group.initial))
    stack = stack_sets(sets, len(group.layers))
    if group.group.padding is None or group.group.scores_padding:
        return stack
    silent = group.group.padding.flatten()[:, None]
    return replace(stack, logits=tuple(logits.masked_fill(silent, _NOTHING) for logits in stack.logits))
