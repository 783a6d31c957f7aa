# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detectors whose normal case are batches of images of different sizes, padded."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..nn.keys import use_table
from ..nn.padding import Padding
from .detr import DETR
from .family_keys import PublishedNames


class PaddedDETR(DETR):
    """A detector that counts whole cells of its images, as those after Deformable DETR do (arXiv:2010.04159).

    Args:
        backbone, encoder, decoder, sources: see :class:`DETR`.
        padding: ``official`` gives the numbers of the published code, where backbone and projections read padded
            cells too: how much padding there is moves the boxes a little. With ``exact`` nothing reads them.

    Its state dict has the names of the published code of its family, which the decoder knows (``names``).

    Raises: ValueError for another ``padding``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        padding: Literal["official", "exact"] = "official",
        sources: list[nn.Module] | None = None,
    ) -> None:
        super().__init__(backbone, encoder, decoder, sources=sources)
        if padding not in ("official", "exact"):
            raise ValueError(f"{type(self).__name__} padding={padding!r}: choose one of official, exact")
        self.padding = padding
        names: PublishedNames = getattr(decoder, "names", PublishedNames())
        self.class_rows, self.remedies = names.class_rows, names.remedies
        use_table(self, names.table)

    def padding_of(self, image_sizes: Tensor, canvas: tuple[int, int]) -> Padding:
        """See :class:`DETR`."""
        return Padding(image_sizes, canvas, whole_cells=True, visible=self.padding == "official")
