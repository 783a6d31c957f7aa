# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Query groups: concatenate them for the decoder, keep them apart by one attention mask, split the outputs again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ConfigError
from .types import Predictions, QueryGroup


@dataclass(frozen=True)
class JoinedQueries:
    """Several groups side by side on the query axis; Q counts the queries of all groups."""

    content: Tensor
    """(B, Q, D)."""
    reference_logits: Tensor
    """(B, Q, 4) cxcywh, or (B, Q, 2), before the sigmoid."""
    attn_mask: Tensor | None
    """(Q, Q) bool, row i may not read column j where True; None if every query may read every other."""
    sizes: list[int]
    """Queries of each group, in order."""
    positions: list[Tensor | None]
    """(B, Qg, D) of each group that brings its own."""


def join_groups(groups: Sequence[QueryGroup]) -> JoinedQueries:
    """Concatenate groups in the given order and build their attention mask.

    Args:
        groups: at least one, names unique. A query reads its own group (where the group's own mask lets it) and the
            groups in ``attends_to``; everything else is masked.

    Raises: ConfigError for two groups of one name, for an ``attends_to`` that names no group, for groups of different
        widths, and for points without a position of their own.
    """
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ConfigError(f"query groups need different names, got {names}")
    for group in groups:
        if missing := sorted(set(group.attends_to) - set(names)):
            raise ConfigError(f"query group {group.name!r} attends to {missing}, which is not among {names}")
        _check_widths(group, groups[-1])
    return JoinedQueries(
        content=torch.cat([group.content for group in groups], dim=1),
        reference_logits=torch.cat([group.reference_logits for group in groups], dim=1),
        attn_mask=_attn_mask(groups),
        sizes=[group.content.shape[1] for group in groups],
        positions=[group.position for group in groups],
    )


def _check_widths(group: QueryGroup, last: QueryGroup) -> None:
    """Refuse a group whose channels or references are not those of the last one, the matching queries."""
    remedy = {
        "queries": "hidden_dim",
        "positions": "hidden_dim",
        "references": "references (boxes or points)",
    }
    dim, numbers = last.content.shape[-1], last.reference_logits.shape[-1]
    widths = [("queries", group.content, dim), ("references", group.reference_logits, numbers)]
    if group.position is not None:
        widths.append(("positions", group.position, dim))
    elif numbers == 2:
        raise ConfigError(f"query group {group.name!r} has points and no position: give its position (B, Q, D)")
    for what, tensor, width in widths:
        if tensor.shape[-1] != width:
            raise ConfigError(
                f"query group {group.name!r} has {what} of width {tensor.shape[-1]}, the decoder's have {width}: give "
                f"its source the decoder's {remedy[what]}"
            )


def _attn_mask(groups: Sequence[QueryGroup]) -> Tensor | None:
    """(Q, Q) bool, or None where everything may be read (faster attention kernels need no mask then)."""
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
    masked = read is not reader and read.name not in reader.attends_to
    return torch.full((reader.content.shape[1], read.content.shape[1]), masked, dtype=torch.bool, device=device)


def split_predictions(predictions: Predictions, sizes: Sequence[int]) -> list[Predictions]:
    """Undo the concatenation: one ``Predictions`` per group, each tensor cut along the query axis."""
    if len(sizes) == 1:
        return [predictions]
    parts = [
        [None] * len(sizes) if tensor is None else tensor.split_with_sizes(list(sizes), dim=1)
        for tensor in (predictions.logits, predictions.boxes, predictions.edge_logits, predictions.initial_boxes)
    ]
    return [Predictions(*fields) for fields in zip(*parts)]
