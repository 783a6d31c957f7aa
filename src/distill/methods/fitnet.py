# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""FitNet: the student's maps come close to the teacher's (Romero et al., arXiv:1412.6550)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.registry import register
from ..context import DistillationContext
from ..features import FeatureDistiller, PairedMaps
from ..teacher import TeacherOutput


def fitnet_loss(maps: PairedMaps) -> Tensor:
    """Squared difference, averaged over the channels and valid cells of each image, then over the images; a scalar."""
    error = (maps.student - maps.teacher).square().mean(1)  # (B, H, W)
    per_image = error.masked_fill(~maps.valid, 0).flatten(1).sum(1) / maps.valid.flatten(1).sum(1)
    return per_image.mean()


@register
class FitNet(FeatureDistiller):
    """The mean over paired levels of :func:`fitnet_loss`, as ``loss_fitnet``.

    Args and Raises: see :class:`~isdfine.distill.features.FeatureDistiller`. Weights worth a try: 0.5 to 20.
    """

    names = ("loss_fitnet",)

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        return {"loss_fitnet": torch.stack([fitnet_loss(maps) for maps in self.maps(context, taught)]).mean()}
