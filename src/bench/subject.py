# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a model has to offer to be timed, whoever made it and whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import CheckpointError, ConfigError, DataError
from ..data.label_space import LabelSpace
from ..deploy.backends.base import Outputs
from ..deploy.preprocess import SQUASH, Recipe
from .timing import check_counts

Precision = Literal["fp32", "fp16", "bf16"]
IN_GRAPH = "part of the model"


@dataclass(frozen=True)
class RunWith:
    """How models are to be run."""

    device: torch.device
    threads: int | None = None
    """Of the CPU, for one call; None = each backend's own choice."""
    batch: int = 1
    size: tuple[int, int] | None = None
    """(height, width) in pixels for models whose input is free; None = what the model says."""
    precision: Precision = "fp32"
    """Of models that are built here; a file has its own."""
    updates: Sequence[str] = ()
    """Changes of configs, ``key.path=value``."""

    def __post_init__(self) -> None:
        check_counts(self, batch=1, threads=1)


@dataclass(frozen=True)
class Facts:
    """What a model is, for the report."""

    source: str
    backend: str
    """Name and version of what runs it, and how."""
    precision: str
    size: tuple[int, int]
    """(height, width) in pixels of the input."""
    weights: str
    post_processing: str
    """Where detections are made of what the network says; always inside the measured time."""
    recipe: Recipe | None
    """How images become its input; None where its own rule makes inputs of another size than ``size``."""
    labels: LabelSpace | None = None
    """None where the classes are not known: its AP cannot be measured."""
    uint8: bool = False
    """It reads pixels 0..255 and normalises them itself."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        names = ("source", "backend", "precision", "size", "weights", "post_processing", "uint8")
        return {name: getattr(self, name) for name in names} | {"resize": self.recipe and self.recipe.rule}

    def require_recipe(self) -> Recipe:
        """How images become its input.

        Raises:
            ConfigError: that is not known for this size.
        """
        if self.recipe is None:
            raise ConfigError(
                f"{self.source}: its own preprocessing does not make every image {self.size[0]} x {self.size[1]} "
                "(height x width), so only the network can be timed: leave --coco and --with-preprocessing out, or "
                "--size where it was given"
            )
        return self.recipe


class Subject(Protocol):
    """A model to be timed."""

    @property
    def facts(self) -> Facts: ...

    def place(self, images: NDArray[Any], sizes: NDArray[np.int64]) -> Any:
        """Put a batch where the network reads it: into the memory of its device, in its type.

        Args:
            images: (B, 3, H, W) as ``network_input`` makes them: float32, or uint8 where the model reads that.
            sizes: (B, 2) width and height in pixels that boxes shall have.
        """
        ...

    def call(self, placed: Any) -> Outputs:
        """Network and post-processing; returns when the detections are in the memory of the CPU."""
        ...


def recipe_for(own: Recipe, size: tuple[int, int]) -> Recipe | None:
    """A model's recipe for inputs of one size; None where it is more than a resize and makes another size.

    Args:
        own: of the model.
        size: (height, width) in pixels.
    """
    if own.size == size:
        return own
    if own.padding is None and own.rule == SQUASH and len(own.ops) == 1:
        return replace(own, ops=Recipe.squash(size).ops)
    return None


def network_input(facts: Facts, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """uint8 (B, 3, H, W) RGB -> what ``Subject.place`` takes."""
    if facts.uint8:
        return pixels
    floats: NDArray[Any] = facts.require_recipe().to_input(torch.from_numpy(pixels)).numpy()
    return floats


def prepared(facts: Facts, images: Sequence[Image.Image]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Images and sizes for ``Subject.place``, by the model's own recipe.

    Args:
        facts: of the model.
        images: RGB.

    Raises:
        ConfigError: see ``Facts.require_recipe``.
    """
    ((_, ready),) = facts.require_recipe().prepare(images)
    return network_input(facts, ready.pixels), np.ascontiguousarray(ready.sizes[:, ::-1])


def from_memory(subject: Subject, batch: int) -> Callable[[], Outputs]:
    """The call that is timed without preprocessing: noise already lies in the memory of the device."""
    facts, draw = subject.facts, np.random.default_rng(0)
    height, width = facts.size
    shape = (batch, 3, height, width)
    noise = draw.integers(0, 256, shape, np.uint8) if facts.uint8 else draw.random(shape, np.float32)
    placed = subject.place(noise, np.tile(np.array([[width, height]], dtype=np.int64), (batch, 1)))
    return lambda: subject.call(placed)


def from_pictures(subject: Subject, read: Callable[[], list[Image.Image]]) -> Callable[[], Outputs]:
    """The call that is timed with preprocessing: decoding (if ``read`` decodes), resizing, conversion, transfer.

    Args:
        subject: the model.
        read: gives the images of a batch.

    Raises:
        ConfigError: see ``Facts.require_recipe``.
    """
    subject.facts.require_recipe()
    return lambda: subject.call(subject.place(*prepared(subject.facts, read())))


def tried(label: str, call: Callable[[], Outputs]) -> Callable[[], Outputs]:
    """The call, after it has answered once.

    Raises:
        ConfigError: it does not: an input size or batch that the model cannot take, or too little memory.
    """
    try:
        call()
    except (ConfigError, CheckpointError, DataError):
        raise
    except Exception as error:  # each runtime has exceptions of its own, without a common base
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{label}: cannot be run so ({reason}): try another --size (multiples of 32 pixels) or a smaller --batch"
        ) from error
    return call
