# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""D-FINE (arXiv 2410.13842): the whole detector on one screen."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import Tensor, nn

from ...core.registry import register
from ...nn.padding import Padding, cleared_reads
from ...nn.types import DetectorOutput, Predictions, Target


@register
class DFINE(nn.Module):
    """Backbone, encoder, decoder.

    Args:
        backbone: images -> feature maps, fine to coarse (``HGNetv2``).
        encoder: feature maps -> feature maps of one width (``HybridEncoder``).
        decoder: feature maps -> predictions (``DFINETransformer``): selects queries from the maps and refines them.

    In eval mode predictions do not depend on the padding of a batch if the backbone's ``forward`` takes ``padding``
    (``HGNetv2`` does), or if all its layers that read neighbours are convolution and pooling layers (see
    ``cleared_reads``). With others they may differ a little. In training, statistics of batch norm count padded cells.

    Keys of the state dict start with ``backbone.``, ``encoder.`` and ``decoder.``.
    """

    def __init__(self, backbone: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        _check_chain(backbone, encoder, decoder)
        self.backbone = backbone
        self.backbone_takes_padding = "padding" in inspect.signature(backbone.forward).parameters
        self.encoder = encoder
        self.decoder = decoder

    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target] | None = None,
        content_sizes: Tensor | None = None,
    ) -> DetectorOutput | Predictions:
        """Detect.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], not normalised; H and W multiples of the coarsest stride, usually 32.
            targets: ground truth for denoising queries, read in training only.
            content_sizes: (B, 2) height and width in pixels of each image inside its canvas, at the top left; None
                where the images fill it. Boxes are fractions of the content. The encoder needs
                ``position_layout: grid``.

        Returns: in training everything the criterion needs, in eval mode the final predictions alone.
        """
        if content_sizes is None:
            features = self.encoder(self.backbone(images))
            return self.decoder(features, targets)
        if len(content_sizes) != len(images):
            raise ValueError(f"{len(content_sizes)} content sizes for {len(images)} images: give one per image")
        height, width = images.shape[-2:]
        padding = Padding(content_sizes.to(images.device), (height, width))
        features = self.encoder(self._padded_features(images, padding), padding)
        return self.decoder(features, targets, padding)

    def _padded_features(self, images: Tensor, padding: Padding) -> list[Tensor]:
        """The backbone's maps, where the end of the content is like the end of the canvas."""
        if self.backbone_takes_padding:
            return list(self.backbone(images, padding))
        with cleared_reads(self.backbone, padding):
            return list(self.backbone(images))


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
            strides = getattr(source, "strides", None)
            where = f" at strides {list(strides)}" if gives == "channels" and strides is not None else ""
            name = " ".join([type(source).__name__, *filter(None, [getattr(source, "name", None)])])
            raise ValueError(
                f"the {giver} ({name}) has {gives} {list(given)}{where} but the {taker} "
                f"({type(target).__name__}) was built for {list(wanted)}: correct {takes} of the one or the other"
            )
