# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The training objective of D-FINE: match, take the union, score (arXiv 2410.13842; docs/method.md 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import ConfigError, check_choice, check_counts, check_non_negative
from ..core.registry import register
from ..nn.boxes import cxcywh_to_xyxy
from ..nn.edges import encode_targets, weighting
from ..nn.types import DetectorOutput, GroupOutput, Predictions, Target
from .functions import fgl_loss, focal_loss, giou_loss, l1_loss, vfl_loss
from .matched import (
    Counts,
    MatchedGroup,
    MatchedStep,
    Pairs,
    TargetTable,
    matched_boxes,
    pair_up,
    tabulate,
)
from .matcher import HungarianMatcher, check_focal
from .sets import SetStack, group_sets, matching_sets, stack_sets

LOSSES = {
    "vfl": ("loss_vfl",),
    "focal": ("loss_focal",),
    "boxes": ("loss_bbox", "loss_giou"),
    "local": ("loss_fgl", "loss_ddf"),
}
"""What an entry of ``losses`` computes; ``weight_dict`` weighs the single terms."""

Terms = dict[str, Tensor]
"""Name of a term -> (k,) values of the first k sets of a stack."""


@runtime_checkable
class Criterion(Protocol):
    """What a run asks of its supervised losses, in two parts: distillers and diagnostics read the step between them.

    Some distillers ask for more, by attributes of the names that :class:`DFINECriterion` has: a criterion without
    ``use_uni_set: True`` is taken as one whose decoder layers do not share their matches.
    """

    def match(self, output: DetectorOutput, targets: Sequence[Target]) -> MatchedStep:
        """Pair the queries of B images with their targets; see :meth:`DFINECriterion.match`."""
        ...

    def terms(self, step: MatchedStep) -> dict[str, Tensor]:
        """Weighted scalars by name, the same names at every step; their sum is what the criterion minimises."""
        ...


@register
class DFINECriterion(nn.Module):
    """All losses of a training step but the distillation's, weighted, under the official names.

    Args:
        matcher: assigns queries to targets.
        weight_dict: factor per term (``loss_vfl``, ``loss_bbox``, ...); a term without one is not computed.
            ``loss_ddf`` is the weight of the distiller ``GOLSD`` and computed by that.
        losses: which to compute: ``vfl`` or ``focal``, ``boxes``, ``local`` (FGL, FDR heads only).
        alpha, gamma: of the class loss, 0..1 and 0 or more.
        num_classes: classes C of the head, checked.
        reg_max: highest bin N of the edge distributions, checked.
        boxes_weight_format: ``iou`` or ``giou``: weigh the GIoU loss by that overlap and use it as VFL's target.
        share_matched_indices: match the last layer only and use its pairs for every set.
        use_uni_set: score all sets' boxes and distributions on the union of their matches (GO-LSD,
            docs/method.md 6.2). False: each set on its own matches, as before GO-LSD (rows of the paper's Table 3).

    Attributes:
        idle: sentences about weights without their loss and losses without any weight, which are left out.

    Raises:
        ValueError: an unknown loss, term or option, a number out of range, or no weight at all.
    """

    proposals_as_layer: bool = False
    """Name the losses of the encoder's proposals like those of one more layer."""
    binary_proposals: bool = False
    """Whether the encoder's proposals tell objects from background only, see ``DETRCriterion``."""

    def __init__(
        self,
        matcher: HungarianMatcher,
        weight_dict: dict[str, float],
        losses: list[str],
        alpha: float = 0.2,
        gamma: float = 2.0,
        num_classes: int = 80,
        reg_max: int = 32,
        boxes_weight_format: Literal["iou", "giou"] | None = None,
        share_matched_indices: bool = False,
        *,
        use_uni_set: bool = True,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        check_weights(who, weight_dict, losses)
        check_focal(who, alpha, gamma)
        check_counts(num_classes=num_classes, reg_max=reg_max)
        check_choice(f"{who}.boxes_weight_format", boxes_weight_format, (None, "iou", "giou"))
        self.matcher = matcher
        self.idle = idle_parts(weight_dict, losses)
        asked = [term for name in losses for term in LOSSES[name]]
        self.weight_dict = {term: weight for term, weight in weight_dict.items() if term in asked}
        self.losses = [name for name in losses if any(term in weight_dict for term in LOSSES[name])]
        self.alpha = alpha
        self.gamma = gamma
        self.num_classes = num_classes
        self.reg_max = reg_max
        self.boxes_weight_format = boxes_weight_format
        self.share_matched_indices = share_matched_indices
        self.use_uni_set = use_uni_set

    def forward(self, output: DetectorOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """:meth:`terms` of :meth:`match`."""
        return self.terms(self.match(output, targets))

    def match(self, output: DetectorOutput, targets: Sequence[Target]) -> MatchedStep:
        """Pair queries and targets, in float32 whatever the precision of the model.

        Args:
            output: prediction sets of B images; extra groups bring their pairs, or are not ``supervised`` and left out.
            targets: one per image, ``boxes`` (T, 4) cxcywh fractions and ``labels`` (T,) in 0..C-1; T may be 0.

        Raises:
            ValueError: predictions and options, or predictions and targets, do not fit.
        """
        self._check(output)
        with torch.autocast(output.layers[-1].boxes.device.type, enabled=False):
            stack, apart = matching_sets(
                output, proposals_as_layer=self.proposals_as_layer, apart=self.binary_proposals
            )
            scored = {name: group for name, group in output.groups.items() if group.group.supervised}
            groups = [(group_sets(name, group), group) for name, group in scored.items()]
            table = tabulate(targets, stack.batch, stack.boxes.device)
            paired = pair_up(self._match(stack, table), stack, groups, table, union=self.use_uni_set)
            stacks = (stack, *(sets for sets, _ in groups))
            matched = [_group(*of_group, table) for of_group in zip(("", *scored), stacks, paired)]
            proposals = None
            if apart is not None:
                if self.binary_proposals:
                    table = replace(table, labels=torch.zeros_like(table.labels))
                matched_apart = self.matcher.assign(apart, table, self.num_classes)
                proposals = _group("", apart, pair_up(matched_apart, apart, [], table, union=False)[0], table)
        return MatchedStep(output, matched, proposals)

    def terms(self, step: MatchedStep) -> dict[str, Tensor]:
        """Score a matched step in float32.

        Returns: name -> weighted scalar on the predictions' device; the objective is their sum. Not a number stays so.
        """
        with torch.autocast(step.matching.stack.boxes.device.type, enabled=False):
            bins = self._bins(step.output)
            named: dict[str, Tensor] = {}
            for group in step.scored:
                terms = self._class_terms(group) | self._box_terms(group)
                if bins is not None and self._wants("loss_fgl") and group.stack.edge_logits is not None:
                    terms["loss_fgl"] = self._fgl(group, *bins)
                named.update(self._name(group.stack.suffixes, terms))
        return named

    def match_as(self, group: GroupOutput, guides: Sequence[Predictions], table: TargetTable) -> MatchedGroup:
        """Pair a group's queries as other predictions of the same queries are matched, layer by layer.

        Args:
            group: without supervision of its own; one layer per guide.
            guides: (B, Q, C) and (B, Q, 4) such as a teacher's, of the classes of this criterion.
            table: the targets.
        """
        stack = group_sets(group.group.name, replace(group, initial=None))
        matched = self.matcher.assign(stack_sets([("", guide) for guide in guides], 0), table, self.num_classes)
        (pair,) = pair_up(matched, stack, [], table, union=False)
        return _group(group.group.name, stack, pair, table)

    def _check(self, output: DetectorOutput) -> None:
        """Compare what the model returned with the options (ConfigError)."""
        who = type(self).__name__
        check_output(who, output, self.num_classes, self.reg_max if "local" in self.losses else None)
        if self.binary_proposals and not output.binary_proposals:
            raise ConfigError(
                f"{who}.binary_proposals is True, but the decoder makes no such proposals: set {who}.binary_proposals: "
                "False, or give the decoder two stages (two_stage: True)"
            )
        if output.binary_proposals and not self.binary_proposals:
            raise ConfigError(
                "the decoder's proposals (two_stage: True) tell objects from background only, but the criterion would "
                "teach them classes: set binary_proposals: True of a DETRCriterion"
            )

    def _match(self, stack: SetStack, table: TargetTable) -> tuple[np.ndarray, np.ndarray]:
        """Queries and targets (S, M) on the host."""
        if not self.share_matched_indices:
            return self.matcher.assign(stack, table, self.num_classes)
        query_index, target_index = self.matcher.assign(stack.only(stack.last_layer), table, self.num_classes)
        return query_index.repeat(len(stack), 0), target_index.repeat(len(stack), 0)

    def _class_terms(self, scored: MatchedGroup) -> Terms:
        """VFL or focal loss of every set on its own matches; a class-agnostic head knows class 0 only."""
        terms: dict[str, list[Tensor]] = {}
        overlap = scored.boxes.giou if self.boxes_weight_format == "giou" else scored.boxes.iou
        matched, norm = scored.pairs.matched, scored.counts.matched
        all_labels = scored.table.labels[scored.pairs.target_index[:, matched]]
        start = 0
        for logits in scored.stack.logits:
            here = slice(start, start + len(logits))
            start = here.stop
            query_index, quality = scored.pairs.query_index[here, matched], overlap[here, matched]
            labels = all_labels[here]
            if logits.shape[-1] == 1:
                labels = torch.zeros_like(labels)
            if self._wants("loss_vfl"):
                loss = vfl_loss(logits, query_index, labels, quality, norm, self.alpha, self.gamma)
                terms.setdefault("loss_vfl", []).append(loss)
            if self._wants("loss_focal"):
                loss = focal_loss(logits, query_index, labels, norm, self.alpha, self.gamma)
                terms.setdefault("loss_focal", []).append(loss)
        return {name: torch.cat(parts) for name, parts in terms.items()}

    def _box_terms(self, scored: MatchedGroup) -> Terms:
        """L1 and GIoU of every set on the pairs of the union."""
        terms: Terms = {}
        boxes, union, norm = scored.boxes, scored.pairs.union, scored.counts.union
        if self._wants("loss_bbox"):
            terms["loss_bbox"] = l1_loss(boxes.predicted[:, union], boxes.target[:, union], norm)
        if self._wants("loss_giou"):
            weights = {"iou": boxes.iou, "giou": boxes.giou}
            weight = None if self.boxes_weight_format is None else weights[self.boxes_weight_format][:, union]
            terms["loss_giou"] = giou_loss(boxes.giou[:, union], norm, weight)
        return terms

    def _fgl(self, scored: MatchedGroup, weights: Tensor, s: Tensor) -> Tensor:
        """FGL of every decoder layer on the pairs of the union, (K,)."""
        stack, union, norm = scored.stack, scored.pairs.union, scored.counts.union
        assert stack.edge_logits is not None
        assert stack.initial_boxes is not None
        layers = len(stack.edge_logits)
        iou = scored.boxes.iou[:layers, union]
        if self.use_uni_set or scored.name:  # the same pairs in every layer
            query_index, target_index = scored.pairs.query_index[0, union], scored.pairs.target_index[0, union]
            bins = encode_targets(stack.initial_boxes[query_index], scored.table.corners[target_index], weights, s)
            return fgl_loss(stack.edge_logits.index_select(1, query_index), *bins, iou, norm)
        query_index, target_index = scored.pairs.query_index[:layers, union], scored.pairs.target_index[:layers, union]
        bins = encode_targets(stack.initial_boxes[query_index], scored.table.corners[target_index], weights, s)
        picked = (logits[of_layer] for logits, of_layer in zip(stack.edge_logits, query_index))
        return torch.stack([fgl_loss(*layer, norm) for layer in zip(picked, *bins, iou)])

    def _wants(self, term: str) -> bool:
        return term in self.weight_dict

    def _name(self, suffixes: Sequence[str], terms: Terms) -> dict[str, Tensor]:
        """Weighted scalars, set by set."""
        values = {name: (vector * self.weight_dict[name]).unbind() for name, vector in terms.items()}
        return {
            f"{name}{suffix}": of_sets[index]
            for index, suffix in enumerate(suffixes)
            for name, of_sets in values.items()
            if index < len(of_sets)
        }

    def _bins(self, output: DetectorOutput) -> tuple[Tensor, Tensor] | None:
        """Bin offsets W and curvature s, or None without local losses."""
        if "local" not in self.losses:
            return None
        assert output.up is not None
        assert output.reg_scale is not None
        return weighting(self.reg_max, output.up, output.reg_scale), output.reg_scale


def _group(name: str, stack: SetStack, pair: tuple[Pairs, Counts], table: TargetTable) -> MatchedGroup:
    return MatchedGroup(name, stack, *pair, matched_boxes(stack, pair[0], table, cxcywh_to_xyxy(stack.boxes)), table)


def check_weights(who: str, weight_dict: Mapping[str, float], losses: Sequence[str]) -> None:
    """Every loss and every weighted term must be known, and one loss at least must weigh something (ValueError)."""
    for kind, names, known in (
        ("losses: no loss", losses, [*LOSSES]),
        ("weight_dict: no term", weight_dict, [term for terms in LOSSES.values() for term in terms]),
    ):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{who}.{kind} named {', '.join(unknown)}; choose from {', '.join(known)}")
    for term, weight in weight_dict.items():
        check_non_negative(f"{who}.weight_dict.{term}", weight)
    if not any(weight_dict.get(term) for name in losses for term in LOSSES[name]):
        terms = [term for name in losses for term in LOSSES[name]] or ["those of at least one loss"]
        raise ValueError(f"{who}: no loss weighs anything; give weights to {', '.join(terms)}")


def idle_parts(weight_dict: Mapping[str, float], losses: Sequence[str]) -> list[str]:
    """Weights without their loss, and losses without any weight: neither is computed, as in the official code."""
    asked = [term for name in losses for term in LOSSES[name]]
    spare = [term for term in weight_dict if term not in asked]
    weightless = [name for name in losses if not any(term in weight_dict for term in LOSSES[name])]
    return [
        *(f"weight_dict.{term} has no effect: no loss of {list(losses)} computes it" for term in spare),
        *(f"the loss {name} has no effect: weight_dict has no {' or '.join(LOSSES[name])}" for name in weightless),
    ]


def check_output(who: str, output: DetectorOutput, num_classes: int, reg_max: int | None) -> None:
    """Compare an output's shapes with the criterion's options.

    Args:
        who: name of the criterion.
        num_classes: classes every head must have; encoder proposals may be class-agnostic instead.
        reg_max: highest bin N every decoder layer must have, or None when distributions are not scored.

    Raises:
        ConfigError: naming the place and both numbers.
    """
    for place, predictions, is_layer in _all_predictions(output):
        classes = predictions.logits.shape[-1]
        if classes != num_classes and not (classes == 1 and place == "proposals"):
            raise ConfigError(
                f"{place}.logits have {classes} classes but {who}.num_classes is {num_classes}: "
                "give model and criterion the same num_classes"
            )
        if is_layer and reg_max is not None:
            _check_edges(who, place, predictions, reg_max)
    if reg_max is not None and (output.up is None or output.reg_scale is None):
        raise ConfigError("losses ask for 'local', but the output has no up and reg_scale: needs an FDR head")


def _check_edges(who: str, place: str, layer: Predictions, reg_max: int) -> None:
    if layer.edge_logits is None or layer.initial_boxes is None:
        raise ConfigError(f"losses ask for 'local', but {place} has no edge distributions: needs an FDR head")
    values, expected = layer.edge_logits.shape[-1], 4 * (reg_max + 1)
    if values != expected:
        raise ConfigError(
            f"{place}.edge_logits have {values} values per query, but {who}.reg_max {reg_max} asks for "
            f"4 * (reg_max + 1) = {expected}: give decoder and criterion the same reg_max"
        )


def _all_predictions(output: DetectorOutput) -> Iterator[tuple[str, Predictions, bool]]:
    """Every prediction set with its place, and whether it is a decoder layer."""
    heads = [("", output.layers, output.initial)]
    heads += [(f"groups[{name!r}].", group.layers, group.initial) for name, group in output.groups.items()]
    for prefix, layers, initial in heads:
        yield from ((f"{prefix}layers[{index}]", layer, True) for index, layer in enumerate(layers))
        if initial is not None:
            yield f"{prefix}initial", initial, False
    if output.proposals is not None:
        yield "proposals", output.proposals, False
