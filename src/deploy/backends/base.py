# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The interface of all backends, and what exported files say about themselves.

That is texts by name: ``metadata_props`` of ONNX, a JSON file beside an engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.errors import CheckpointError, DataError
from ...data.label_space import LabelSpace
from ..preprocess import Recipe

VERSION = "isdfine_version"
UINT8 = "uint8"
INPUTS = ("images", "orig_target_sizes")
OUTPUTS = ("labels", "boxes", "scores")


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

    def take(self, which: int | slice) -> Outputs:
        """Some of the images, or one of them without the first dimension."""
        return Outputs(self.labels[which], self.boxes[which], self.scores[which])


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


def info_from(
    metadata: Mapping[str, str],
    place: str,
    backend: str,
    *,
    uint8: bool,
    max_batch: int | None,
    size: tuple[int, int] | None,
    names: Sequence[str] | None,
) -> BackendInfo:
    """Names, ids and preprocessing of an exported model.

    Args:
        metadata: of the file; without ``isdfine_version`` in it the file is another project's.
        place: the file, for messages.
        backend: for people.
        uint8, max_batch: what the inputs of the graph say.
        size: (height, width) of the input, None where it is free.
        names: classes of a file of another project in label order: with them an official D-FINE export, which has
            the same inputs and outputs and no metadata, can be used (squashed to ``size``, pixels in [0, 1]).

    Raises:
        CheckpointError: no metadata and no names, or metadata that cannot be read.
    """
    if VERSION in metadata:
        if names is not None:
            raise CheckpointError(f"{place}: says its classes itself: leave names out")
        recipe, labels = Recipe.from_metadata(metadata, place), _labels(metadata, place)
    else:
        if names is None or size is None:
            raise CheckpointError(
                f"{place}: was not written by isdfine (no {VERSION} in its metadata): export the model with "
                "isdfine export; an official D-FINE export of one size can be used with its class names (names=)"
            )
        recipe, labels = Recipe.squash(size), _named(names, place)
    if size is not None and recipe.size is not None and recipe.size != size:
        raise CheckpointError(
            f"{place}: takes images of {size[0]} x {size[1]} (height x width), its metadata say {recipe.size}: "
            "export the model again"
        )
    return BackendInfo(labels, recipe, backend, uint8, max_batch)


def _labels(metadata: Mapping[str, str], place: str) -> LabelSpace:
    try:
        labels = {"names": json.loads(metadata["names"]), "category_ids": json.loads(metadata["ids"])}
        return LabelSpace.from_dict(labels)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{place}: its metadata do not say its classes ({error!r}): export the model again with isdfine export"
        ) from None


def _named(names: Sequence[str], place: str) -> LabelSpace:
    try:
        return LabelSpace.from_names(list(names), f"{place} (names)")
    except DataError as error:
        raise CheckpointError(str(error)) from None


def check_interface(path: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse models with other inputs or outputs.

    Raises:
        CheckpointError: naming both.
    """
    if set(inputs) != set(INPUTS) or not set(OUTPUTS) <= set(outputs):
        raise CheckpointError(
            f"{path}: has the inputs {', '.join(inputs)} and the outputs {', '.join(outputs)}, expected "
            f"{', '.join(INPUTS)} and {', '.join(OUTPUTS)}: it is another project's model; export one with "
            "isdfine export"
        )
