# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A detector of the DETR family: the whole of it on one screen."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..nn.capture import check_taps
from ..nn.padding import Padding, cleared_reads
from ..nn.types import DetectorOutput, Predictions, QueryGroup, Target, Want

BACKBONE, NECK = "backbone", "neck"
"""Taps of the detector itself; the others are the decoder's."""


class DETR(nn.Module):
    """Backbone, encoder, decoder.

    Args:
        backbone: images -> feature maps, fine to coarse (``HGNetv2``).
        encoder: feature maps -> feature maps of one width (``HybridEncoder``).
        decoder: feature maps -> predictions (``DFINETransformer``): selects queries from the maps and refines them.
        sources: of further query groups beside the decoder's own, see :class:`~isdfine.zoo.queries.GroupSource`; the
            decoder calls them with its own. Their weights are the model's.

    In eval mode predictions do not depend on the padding of a batch if the backbone's ``forward`` takes ``padding``
    (``HGNetv2`` does), or if all its layers that read neighbours are convolution and pooling layers (see
    ``cleared_reads``). With others they may differ a little. In training, statistics of batch norm count padded cells.

    Keys of the state dict start with ``backbone.``, ``encoder.`` and ``decoder.``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        sources: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        _check_chain(backbone, encoder, decoder)
        self.backbone = backbone
        self.backbone_takes_padding = "padding" in inspect.signature(backbone.forward).parameters
        self.encoder = encoder
        self.decoder = decoder
        self.sources = nn.ModuleList(sources or ())

    @property
    def taps(self) -> frozenset[str]:
        """What ``Want.taps`` may name."""
        return self.decoder_taps | {BACKBONE, NECK}

    @property
    def decoder_taps(self) -> frozenset[str]:
        """Those of them that the decoder gives."""
        return frozenset(getattr(self.decoder, "taps", ()))

    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target] | None = None,
        image_sizes: Tensor | None = None,
        *,
        groups: Sequence[QueryGroup] = (),
        want: Want | None = None,
    ) -> DetectorOutput | Predictions:
        """Detect.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], not normalised; H and W multiples of the coarsest stride, usually 32.
            targets: ground truth for denoising queries, read in training, and in eval mode where ``want`` is given.
            image_sizes: (B, 2) height and width in pixels of each image inside its canvas, at the top left; None
                where the images fill it. Boxes are fractions of that part. A ``HybridEncoder`` needs
                ``position_layout: grid``.
            groups: further queries for the decoder; they come back in the output's ``groups``, by name.
            want: what to return; None for all that losses read (``TRAINING``) in train mode, and in eval mode for the
                final predictions alone.

        Returns: a ``DetectorOutput`` with what is wanted, or without ``want`` in eval mode the final predictions.

        Raises:
            ValueError: a tap or kind of attention that there is not, or sizes for another number of images.
        """
        further: dict[str, Any] = {}
        if want is not None:
            check_taps(self, want.taps)
            further["want"] = replace(want, taps=want.taps & self.decoder_taps)
        padding = None
        if image_sizes is not None:
            if len(image_sizes) != len(images):
                raise ValueError(f"{len(image_sizes)} image sizes for {len(images)} images: give one per image")
            padding = self.padding_of(image_sizes.to(images.device), (images.shape[-2], images.shape[-1]))
        maps = self._backbone_maps(images, padding)
        features = self.encoder(maps) if padding is None else self.encoder(maps, padding)
        if groups:
            further["groups"] = groups
        if self.sources:
            further["sources"] = self.sources
        if padding is not None:
            further["padding"] = padding
        output: DetectorOutput | Predictions = self.decoder(features, targets, **further)
        if want is None or isinstance(output, Predictions):
            return output
        tapped = {name: list(levels) for name, levels in ((BACKBONE, maps), (NECK, features)) if name in want.taps}
        return replace(output, taps={**tapped, **output.taps})

    def padding_of(self, image_sizes: Tensor, canvas: tuple[int, int]) -> Padding:
        """What the parts read of a padded batch: sizes (B, 2) and the canvas, (height, width) in pixels."""
        return Padding(image_sizes, canvas)

    def _backbone_maps(self, images: Tensor, padding: Padding | None) -> list[Tensor]:
        """The backbone's maps, where the end of an image is like the end of the canvas."""
        if padding is None:
            return list(self.backbone(images))
        if self.backbone_takes_padding:
            return list(self.backbone(images, padding))
        with cleared_reads(self.backbone, padding):
            return list(self.backbone(images))


def _check_chain(backbone: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
    """Compare what each part delivers with what the next was built for, where both say so.

    A wrong stride would train in silence: positions and anchors would be those of another map.
    """
    deepens = hasattr(encoder, "in_strides")  # it gives further levels than it gets
    links = (
        ("backbone", backbone, "channels", "encoder", encoder, "in_channels"),
        ("backbone", backbone, "strides", "encoder", encoder, "in_strides" if deepens else "strides"),
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
