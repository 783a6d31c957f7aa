# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""D-FINE (arXiv 2410.13842): the whole detector on one screen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...core.registry import register
from ...nn.types import DetectorOutput, Predictions, Target


@register
class DFINE(nn.Module):
    """Backbone, encoder, decoder.

    Args:
        backbone: images -> feature maps, fine to coarse (``HGNetv2``).
        encoder: feature maps -> feature maps of one width (``HybridEncoder``).
        decoder: feature maps -> predictions (``DFINETransformer``): selects queries from the maps and refines them.

    Keys of the state dict start with ``backbone.``, ``encoder.`` and ``decoder.``.
    """

    def __init__(self, backbone: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        _check_chain(backbone, encoder, decoder)
        self.backbone = backbone
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> DetectorOutput | Predictions:
        """Detect.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], not normalised; H and W multiples of the coarsest stride, usually 32.
            targets: ground truth for denoising queries, read in training only.

        Returns: in training everything the criterion needs, in eval mode the final predictions alone.
        """
        features = self.backbone(images)
        features = self.encoder(features)
        return self.decoder(features, targets)


def _check_chain(backbone: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
    """Compare what each part delivers with what the next was built for, where both say so.

    A wrong stride would train in silence: positions and anchors would be those of another map.
    """
    links = (
        ("backbone", backbone, "channels", "encoder", encoder, "in_channels"),
        ("backbone", backbone, "strides", "encoder", encoder, "strides"),
        ("encoder", encoder, "channels", "decoder", decoder, "feat_channels"),
        ("encoder", encoder, "strides", "decoder", decoder, "feat_strides"),
    )
    for giver, source, gives, taker, target, takes in links:
        given, wanted = getattr(source, gives, None), getattr(target, takes, None)
        if given is not None and wanted is not None and list(given) != list(wanted):
            raise ValueError(
                f"the {giver} ({type(source).__name__}) has {gives} {list(given)} but the {taker} "
                f"({type(target).__name__}) was built for {list(wanted)}: correct {takes} of the one or the other"
            )
