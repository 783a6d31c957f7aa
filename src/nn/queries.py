# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Query groups: concatenate them for the decoder, keep them apart by one attention mask, split the outputs again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .types import Predictions, QueryGroup


@dataclass(frozen=True)
class JoinedQueries:
    """Several groups side by side on the query axis; Q counts the queries of all groups."""

    content: Tensor
    """(B, Q, D)."""
    reference_logits: Tensor
    """(B, Q, 4) cxcywh before the sigmoid."""
    blocked: Tensor | None
    """(Q, Q) bool, row i may not read column j where True; None if every query may read every other."""
    sizes: list[int]
    """Queries of each group, in order."""


def join_groups(groups: Sequence[QueryGroup]) -> JoinedQueries:
    """Concatenate groups in the given order and build the block mask.

    Args:
        groups: at least one, names unique. A query reads its own group (where the group's own mask lets it) and the
            groups in ``attends_to``; everything else is blocked.

    Raises: ValueError for two groups of one name, an ``attends_to`` that names no group, or queries of another width.
    """
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ValueError(f"query groups need different names, got {names}")
    for group in groups:
        if missing := sorted(set(group.attends_to) - set(names)):
            raise ValueError(f"query group {group.name!r} attends to {missing}, which is not among {names}")
        width, expected = group.content.shape[-1], groups[-1].content.shape[-1]
        if width != expected:
            raise ValueError(
                f"query group {group.name!r} has queries of width {width}, the decoder's have {expected}: give its "
                "source the decoder's hidden_dim"
            )
    return JoinedQueries(
        content=torch.cat([group.content for group in groups], dim=1),
        reference_logits=torch.cat([group.reference_logits for group in groups], dim=1),
        blocked=_block_mask(groups),
        sizes=[group.content.shape[1] for group in groups],
    )


def _block_mask(groups: Sequence[QueryGroup]) -> Tensor | None:
    """(Q, Q) bool, True = blocked, or None where nothing is blocked (faster attention kernels need no mask then)."""
    present = [group for group in groups if group.content.shape[1] > 0]
    if all(row.mask is None and _sees_all(row, present) for row in present):
        return None
    device = groups[0].content.device
    rows = []
    for row in present:
        blocks = [_block(row, column, device) for column in present]
        rows.append(torch.cat(blocks, dim=1))
    return torch.cat(rows)


def _sees_all(reader: QueryGroup, groups: Sequence[QueryGroup]) -> bool:
    return all(other is reader or other.name in reader.attends_to for other in groups)


def _block(reader: QueryGroup, read: QueryGroup, device: torch.device) -> Tensor:
    """The rows of one group and the columns of another, (Q_reader, Q_read) bool."""
    if read is reader and reader.mask is not None:
        return reader.mask
    blocked = read is not reader and read.name not in reader.attends_to
    return torch.full((reader.content.shape[1], read.content.shape[1]), blocked, dtype=torch.bool, device=device)


def split_predictions(predictions: Predictions, sizes: Sequence[int]) -> list[Predictions]:
    """Undo the concatenation: one ``Predictions`` per group, each tensor cut along the query axis."""
    if len(sizes) == 1:
        return [predictions]
    parts = [
        [None] * len(sizes) if tensor is None else tensor.split(list(sizes), dim=1)
        for tensor in (predictions.logits, predictions.boxes, predictions.edge_logits, predictions.initial_boxes)
    ]
    return [Predictions(*fields) for fields in zip(*parts)]
