# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a model has to offer to be timed, whoever made it and whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...core.errors import ConfigError
from ...data.label_space import LabelSpace
from ..backends.base import Outputs
from ..preprocess import Recipe

Precision = Literal["fp32", "fp16", "bf16"]
IN_GRAPH = "part of the model"


@dataclass(frozen=True)
class Wanted:
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
        for name, value in (("batch", self.batch), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}: give 1 or more")


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
    recipe: Recipe
    labels: LabelSpace | None = None
    """None where the classes are not known: its AP cannot be measured."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        names = ("source", "backend", "precision", "size", "weights", "post_processing")
        return {name: getattr(self, name) for name in names} | {"resize": self.recipe.rule}


class Subject(Protocol):
    """A model to be timed."""

    @property
    def facts(self) -> Facts: ...

    def place(self, images: NDArray[np.float32], sizes: NDArray[np.int64]) -> Any:
        """Put a batch where the network reads it: into the memory of its device, in its type.

        Args:
            images: (B, 3, H, W) as the recipe's ``to_input`` makes them.
            sizes: (B, 2) width and height in pixels that boxes shall have.
        """
        ...

    def call(self, placed: Any) -> Outputs:
        """Network and post-processing; returns when the detections are in the memory of the CPU."""
        ...


def prepared(facts: Facts, images: Sequence[Image.Image]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images and sizes for ``Subject.place``, by the model's own recipe.

    Args:
        facts: of the model, whose recipe gives all images one size.
        images: RGB.
    """
    ((_, ready),) = facts.recipe.prepare(images)
    pixels: NDArray[np.float32] = facts.recipe.to_input(torch.from_numpy(ready.pixels)).numpy()
    return pixels, np.ascontiguousarray(ready.sizes[:, ::-1])


def from_memory(subject: Subject, batch: int) -> Callable[[], Outputs]:
    """The call that is timed without preprocessing: noise already lies in the memory of the device."""
    height, width = subject.facts.size
    noise = np.random.default_rng(0).random((batch, 3, height, width), dtype=np.float32)
    placed = subject.place(noise, np.tile(np.array([[width, height]], dtype=np.int64), (batch, 1)))
    return lambda: subject.call(placed)


def from_pictures(subject: Subject, read: Callable[[], list[Image.Image]]) -> Callable[[], Outputs]:
    """The call that is timed with preprocessing: decoding (if ``read`` decodes), resizing, conversion, transfer.

    Args:
        subject: the model.
        read: gives the images of a batch.
    """
    return lambda: subject.call(subject.place(*prepared(subject.facts, read())))
