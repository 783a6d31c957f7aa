# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The interface of all backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...data.label_space import LabelSpace
from ..preprocess import Recipe


@dataclass(frozen=True)
class BackendInfo:
    """What a loaded model says about itself."""

    labels: LabelSpace
    """Names and original ids of the C classes."""
    recipe: Recipe
    """How images are prepared; ``recipe.rule``, ``.size``, ``.mean`` and ``.std`` are its parts."""
    backend: str
    """Name, version and device, for people: ``onnxruntime 1.20 (CPU)``."""
    uint8: bool = False
    """The network takes uint8 pixels, and normalises them itself."""
    max_batch: int | None = None
    """Most images in one call; None for any number."""
    takes_image_sizes: bool = False
    """The network can be told which part of a padded canvas is image."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.labels.names

    @property
    def ids(self) -> tuple[int, ...]:
        """Original category ids in label order."""
        return self.labels.category_ids

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the input in pixels; None where it depends on the image."""
        return self.recipe.size

    @property
    def dynamic_size(self) -> bool:
        """Whether inputs of many sizes come."""
        return self.size is None


class Outputs(NamedTuple):
    """B images, K detections each, best first, in the order of an exported graph's outputs."""

    labels: NDArray[np.int64]
    """(B, K) contiguous class index."""
    boxes: NDArray[np.float32]
    """(B, K, 4) xyxy in pixels of ``orig_sizes``."""
    scores: NDArray[np.float32]
    """(B, K)."""


class Backend(Protocol):
    """A loaded model. ``run`` may be called from several threads at once."""

    @property
    def info(self) -> BackendInfo: ...

    def run(
        self, images: NDArray[Any], orig_sizes: NDArray[np.int64], image_sizes: NDArray[np.int64] | None = None
    ) -> Outputs:
        """Detect.

        Args:
            images: (B, 3, H, W) uint8 RGB as ``Recipe.prepare`` makes them, or float32 as the network reads them.
            orig_sizes: (B, 2) **(width, height)** in pixels that the boxes shall have.
            image_sizes: (B, 2) height and width of the images inside a padded canvas, where ``info.takes_image_sizes``.
        """
        ...
