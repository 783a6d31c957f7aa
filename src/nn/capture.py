# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Let a caller see what decoder layers attend to, with the fused attention and the inference graph untouched.

A recorder travels through the layers of one forward pass as an argument; nothing is kept on modules, so copies, state
dicts and exported graphs do not know of it (docs/method.md 7.3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from .types import QueryGroup, Want

SELF_ATTENTION = "self_attention"
"""Projected queries and keys of the attention among decoder queries."""
SELF_ATTENTION_MAPS = "self_attention_maps"
"""The same, and the layer's output goes through the materialised map, which is recorded too: slower."""
CROSS_ATTENTION = "cross_attention"
"""Logits of the weights that deformable cross-attention gives to its sampling points."""
DENSE_CROSS_ATTENTION = "dense_cross_attention"
"""Projected queries and keys of the attention of queries to every cell of the memory."""
DEFORMABLE_KINDS = frozenset({SELF_ATTENTION, SELF_ATTENTION_MAPS, CROSS_ATTENTION})
"""What layers of self-attention and deformable cross-attention offer."""


@dataclass(frozen=True)
class CapturedAttention:
    """What the decoder layers of one forward pass attended to; d channels per head, P points over all levels.

    Every tensor holds the queries of all groups, Q of them, on one axis, and is part of the graph. Kinds that were not
    asked for are empty tuples; the others have one entry per layer.
    """

    num_points: tuple[int, ...]
    """Points per head on each level, P in all, in the order of ``point_logits``."""
    places: dict[str, slice]
    """Where each query group lies on the query axis, by name; "" are the matching queries."""
    attn_mask: Tensor | None
    """(Q, Q) bool, row i may not read column j where True, the same in all layers; None for no mask."""
    masks: dict[str, Tensor]
    """(Qg, Qg) bool by name, the mask inside a group; only of groups that have one."""
    padding: dict[str, Tensor]
    """(B, Qg) bool by name for groups with slots that only fill up the batch, True there."""
    queries: tuple[Tensor, ...] = ()
    """(B, heads, Q, d) projected, before scaling."""
    keys: tuple[Tensor, ...] = ()
    """(B, heads, Q, d) projected, before scaling."""
    scores: tuple[Tensor, ...] = ()
    """(B, heads, Q, Q) queries times keys over sqrt(d), before the mask; for ``self_attention_maps`` only."""
    point_logits: tuple[Tensor, ...] = ()
    """(B, Q, heads, P) before their softmax over all points."""
    dense_queries: tuple[Tensor, ...] = ()
    """(B, heads, Q, d') projected, before scaling, of the attention to the memory's S cells."""
    dense_keys: tuple[Tensor, ...] = ()
    """(B, heads, S, d') projected, before scaling."""
    key_padding_mask: Tensor | None = None
    """(1 or B, S) bool, True for cells that no query may read, the same in all layers; None where all may be read."""

    @property
    def of_some_kind(self) -> tuple[Tensor, ...]:
        """One tensor per layer, the batch first, of a kind that was asked for."""
        return self.queries or self.point_logits or self.dense_queries


class AttentionRecorder:
    """Collects attention while one forward pass goes through the layers.

    Args:
        kinds: of this module's names.
    """

    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds
        self.materialise = SELF_ATTENTION_MAPS in kinds
        self._layers: dict[str, list[Tensor]] = defaultdict(list)  # by field of CapturedAttention
        self._num_points: Sequence[int] = ()
        self._key_padding_mask: Tensor | None = None

    def add_self_attention(self, query: Tensor, key: Tensor, scores: Tensor | None = None) -> None:
        """Of the next layer: (B, heads, Q, d) twice and, if the layer materialises them, (B, heads, Q, Q) scores."""
        if self.materialise or SELF_ATTENTION in self.kinds:
            self._layers["queries"].append(query)
            self._layers["keys"].append(key)
        if scores is not None:
            self._layers["scores"].append(scores)

    def add_points(self, logits: Tensor, num_points: Sequence[int]) -> None:
        """Of the next layer: (B, Q, heads, P) and the points per level."""
        if CROSS_ATTENTION in self.kinds:
            self._layers["point_logits"].append(logits)
            self._num_points = num_points

    def add_dense_cross(self, query: Tensor, key: Tensor, key_padding_mask: Tensor | None = None) -> None:
        """Of the next layer: (B, heads, Q, d'), (B, heads, S, d') and (1 or B, S) bool, cells that may not be read."""
        if DENSE_CROSS_ATTENTION in self.kinds:
            self._layers["dense_queries"].append(query)
            self._layers["dense_keys"].append(key)
            self._key_padding_mask = key_padding_mask

    def finish(self, groups: Sequence[QueryGroup], attn_mask: Tensor | None) -> CapturedAttention:
        """What was collected, with the groups in the order in which they were joined and their mask."""
        places, start = {}, 0
        for group in groups:
            places[group.name] = slice(start, start := start + group.content.shape[1])
        return CapturedAttention(
            num_points=tuple(self._num_points),
            places=places,
            attn_mask=attn_mask,
            masks={group.name: group.mask for group in groups if group.mask is not None},
            padding={group.name: group.padding for group in groups if group.padding is not None},
            key_padding_mask=self._key_padding_mask,
            **{field: tuple(layers) for field, layers in self._layers.items()},
        )


@runtime_checkable
class OffersAttention(Protocol):
    """A module whose output carries ``attention`` where ``Want.attention`` asks for it."""

    attention_kinds: frozenset[str]
    """Kinds that all of its layers have."""

    @property
    def num_attention_layers(self) -> int:
        """Layers that run in training."""
        ...

    @property
    def num_predicting_layers(self) -> int:
        """Of these, layers whose predictions the training output has: all, or 1 for the last alone."""
        ...


def attention_of(model: nn.Module, kinds: Iterable[str]) -> OffersAttention:
    """The part of a model that can record these kinds of attention.

    Raises:
        ValueError: no part can; the message names what there is.
    """
    wanted = frozenset(kinds)
    offers = [module for module in model.modules() if isinstance(module, OffersAttention)]
    for module in offers:
        if wanted <= module.attention_kinds:
            return module
    if not offers:
        raise ValueError(
            f"{type(model).__name__} has no layers whose attention can be captured ({listed(wanted)} was asked for): "
            "use a model whose decoder offers it, as DFINETransformer does, or leave the distiller out"
        )
    raise _refusal(offers[0], wanted)


def _refusal(offer: OffersAttention, wanted: frozenset[str]) -> ValueError:
    return ValueError(
        f"the layers of {type(offer).__name__} have no {listed(wanted - offer.attention_kinds)}: "
        f"choose among {listed(offer.attention_kinds)}"
    )


def recorder(offer: OffersAttention, wanted: frozenset[str]) -> AttentionRecorder | None:
    """For one forward pass of a decoder; None where nothing is wanted, ValueError for kinds that it does not have."""
    if wanted - offer.attention_kinds:
        raise _refusal(offer, wanted)
    return AttentionRecorder(wanted) if wanted else None


def offers_attention(model: nn.Module, kinds: Iterable[str]) -> bool:
    """Whether some part of a model can record these kinds of attention."""
    wanted = frozenset(kinds)
    return any(isinstance(part, OffersAttention) and wanted <= part.attention_kinds for part in model.modules())


def check_want(model: nn.Module, want: Want) -> None:
    """Refuse what a model cannot return, before it runs (ValueError that names what there is).

    Args:
        model: a detector or a decoder; it says which taps it has in an attribute ``taps``.
        want: what is going to be asked for.
    """
    if want.attention:
        attention_of(model, want.attention)
    check_taps(model, want.taps)


def check_taps(model: nn.Module, wanted: frozenset[str]) -> None:
    """Refuse taps that a model does not have (ValueError)."""
    taps: frozenset[str] = getattr(model, "taps", frozenset())
    if wanted - taps:
        raise ValueError(
            f"{type(model).__name__} has no tap {listed(wanted - taps)}: choose among {listed(taps) or 'none'}"
        )


def listed(names: Iterable[str]) -> str:
    """Sorted, for messages."""
    return ", ".join(sorted(names))
