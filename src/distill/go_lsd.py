# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Global optimal localization self-distillation: the deepest layer teaches all others (D-FINE section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.errors import check_non_negative, check_positive
from ..core.registry import register
from ..losses.criterion import Criterion
from ..losses.matched import DnPadding, MatchedGroup, MatchedStep
from .checks import (
    check_distributions,
    check_layers,
    check_union,
    edge_logits_of,
)
from .context import DistillationContext, Distiller
from .mixing import DnCounts, Mixing
from .ramp import Ramp


@register
class GOLSD(Distiller):
    """DDF between every decoder layer and the deepest (docs/method.md 7.1).

    Args:
        weight: factor of the loss; None takes ``weight_dict.loss_ddf`` of the criterion, as official files give it.
        temperature: T of both softmaxes, above 0.
        denoising: distil inside the extra query groups too.
        dn_padding: whether padded denoising slots are unmatched queries (``include`` is the official way).
        dn_counts: whether denoising groups mix the two means by the matching queries' counts (``shared``, official) or
            by their ``own``.
        ramp: see :class:`~isdfine.distill.ramp.Ramp`.

    Raises:
        ValueError: an option out of its range.
    """

    compares = "edge distributions"

    def __init__(
        self,
        weight: float | None = None,
        temperature: float = 5.0,
        *,
        denoising: bool = True,
        dn_padding: DnPadding = "include",
        dn_counts: DnCounts = "shared",
        ramp: Sequence[float] = (0.0, 0.0),
    ) -> None:
        super().__init__()
        check_positive("GOLSD.temperature", temperature)
        if weight is not None:
            check_non_negative("GOLSD.weight", weight)
        self.weight = weight
        self.temperature = temperature
        self.mixing = Mixing("GOLSD", denoising=denoising, dn_padding=dn_padding, dn_counts=dn_counts)
        self.ramp = Ramp(ramp, "GOLSD.ramp")

    def bound(self, criterion: Criterion) -> GOLSD:
        if self.weight is not None:
            return self
        weights: Mapping[str, float] = getattr(criterion, "weight_dict", {})
        if "loss_ddf" not in weights:
            raise ValueError(
                "GOLSD.weight is null and the criterion's weight_dict has no loss_ddf: give one of the two"
            )
        return GOLSD(
            weights["loss_ddf"],
            self.temperature,
            denoising=self.mixing.denoising,
            dn_padding=self.mixing.dn_padding,
            dn_counts=self.mixing.dn_counts,
            ramp=(self.ramp.start, self.ramp.end),
        )

    def check(self, model: nn.Module, criterion: Criterion) -> None:
        check_distributions("GOLSD", model)
        check_layers("GOLSD", model)
        check_union("GOLSD", criterion)

    def layer_pairs(self, layers: int) -> list[tuple[int, int]]:
        return [(index, layers - 1) for index in range(layers - 1)]

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        assert self.weight is not None, "bound() gives the weight"
        factor = self.weight * self.ramp(context.progress)
        named: dict[str, Tensor] = {}
        for group in self.mixing.groups(context.step):
            edges, teacher = edge_logits_of(group, "GOLSD"), group.stack.teacher
            losses = edges.new_zeros(teacher)
            if factor and teacher:
                losses = self._losses(group, edges, teacher, context.step) * factor
            if group.name:  # in extra groups the deepest layer against itself has an official name in the log
                losses = torch.cat((losses, losses.new_zeros(1)))
            named |= {f"loss_ddf{suffix}": loss for suffix, loss in zip(group.stack.suffixes, losses.unbind())}
        return named

    def _losses(self, group: MatchedGroup, edges: Tensor, teacher: int, step: MatchedStep) -> Tensor:
        """DDF of the layers before the teacher, (teacher,)."""
        confidence = group.confidence(teacher, teacher + 1)[0]
        share = self.mixing.share(group, step)
        return share.ddf(edges[:teacher], edges[teacher], group.overlaps(0, teacher), confidence, self.temperature)
