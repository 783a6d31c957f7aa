# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From an upright RGB image to a network's input, with the very operations that evaluated the run.

A recipe is also what an exported graph has to say in its metadata, since the graph itself begins after the resize.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..core.config import Config
from ..core.config.plan import Plan
from ..core.errors import CheckpointError, ConfigError
from ..data.collate import IMAGENET_MEAN, STRIDE, PaddedBatchCollateFunction
from ..data.transforms import (
    Compose,
    ConvertBoxes,
    ConvertPILImage,
    EmptyTransform,
    PadToSize,
    PixelConversion,
    Resize,
    ResizeShortestEdge,
    ResizeToFit,
    SanitizeBoundingBoxes,
)
from ..nn.padding import IMAGE_SIZE

MAX_SIDE = 1 << 14
"""Pixels; no network here takes larger images."""
SQUASH, FIT, SHORTER_SIDE = "squash", "fit", "shorter_side"
_RULES = {"Resize": SQUASH, "ResizeToFit": FIT, "ResizeShortestEdge": SHORTER_SIDE}
_ONE_SIZE = ("Resize", "PadToSize")
_COLLATES = "CollateFunction"
_BOXES_ONLY = (EmptyTransform, SanitizeBoundingBoxes, ConvertBoxes, ConvertPILImage)
_BY_NAME: dict[str, type[nn.Module]] = {op.__name__: op for op in (Resize, ResizeToFit, ResizeShortestEdge, PadToSize)}


@dataclass(frozen=True)
class Prepared:
    """B images of one canvas size, ready for a backend."""

    pixels: NDArray[np.uint8]
    """(B, 3, H, W) RGB."""
    sizes: NDArray[np.int64]
    """(B, 2) height and width in pixels that boxes as fractions of the image refer to: those of the images as they
    came, grown where ``PadToSize`` added a border."""
    image_sizes: NDArray[np.int64] | None
    """(B, 2) height and width of the image inside its canvas, at the top left; None where it fills it."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """Resize, pad, and the numbers that pixels become, as plain data.

    Args:
        ops: applied in order: ``type`` (``Resize``, ``ResizeToFit``, ``ResizeShortestEdge`` or ``PadToSize``) and the
            arguments of that class.
        padding: arguments of the ``PaddedBatchCollateFunction`` (stride, fill) that makes a canvas around images whose
            size depends on their shape; None where all get one size.
        pixels: what 0..255 becomes.
        mean, std: of red, green, blue, applied after ``pixels``. Models of ours need none: what has to be normalised
            is inside the backbone.
    """

    ops: tuple[Mapping[str, Any], ...]
    padding: Mapping[str, Any] | None = None
    pixels: PixelConversion = field(default_factory=PixelConversion)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def squash(cls, size: Sequence[int]) -> Recipe:
        """Resize to (height, width) whatever the shape of the image: the official recipe."""
        return cls(({"type": "Resize", "size": (int(size[0]), int(size[1]))},))

    @cached_property
    def _modules(self) -> list[nn.Module]:
        """What carries out the ops."""
        return [_BY_NAME[op["type"]](**{name: op[name] for name in op if name != "type"}) for op in self.ops]

    @cached_property
    def _canvas_of(self) -> PaddedBatchCollateFunction | None:
        return None if self.padding is None else PaddedBatchCollateFunction(**self.padding)

    def built(self) -> Recipe:
        """Itself, with its operations made, so that what they refuse (of a foreign file) is found now."""
        _ = self._modules, self._canvas_of
        return self

    @property
    def rule(self) -> str:
        """``squash``, ``fit`` or ``shorter_side``: what the first resize does."""
        return next(_RULES[op["type"]] for op in self.ops if op["type"] in _RULES)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that every image gets; None where it depends on the image."""
        last = self.ops[-1]
        return None if self.padding or last["type"] not in _ONE_SIZE else (last["size"][0], last["size"][1])

    def prepare(self, images: Sequence[Image.Image]) -> list[tuple[list[int], Prepared]]:
        """Resize images, and put together those that get the same canvas.

        Args:
            images: RGB, upright.

        Returns: groups in the order of their first image: the numbers of its images, and what a backend gets.
        """
        ready = [self._one(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (pixels, _) in enumerate(ready):
            groups.setdefault(self._canvas(pixels), []).append(index)
        return [(indices, self._stacked([ready[index] for index in indices])) for indices in groups.values()]

    def to_input(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 as the network reads it; the same arithmetic as the loader of a run."""
        floats = self.pixels(pixels)
        if self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            return floats
        mean, std = (torch.tensor(values, device=floats.device)[:, None, None] for values in (self.mean, self.std))
        return (floats - mean) / std

    def to_metadata(self) -> dict[str, str]:
        """Entries of a graph's metadata: ``resize``, ``size``, ``mean`` and ``std`` for people and other programs, and
        ``preprocess`` with everything, which ``from_metadata`` reads."""
        mean, std = self.mean, self.std
        if not self.pixels.scale:  # 0..255 is 0..1 divided by 1/255
            mean, std = tuple(value / 255 for value in mean), tuple(value / 255 for value in std)
        return {
            "resize": self.rule,
            "size": json.dumps(self.size),
            "mean": json.dumps(mean),
            "std": json.dumps(std),
            "preprocess": json.dumps(
                {
                    "ops": [dict(op) for op in self.ops],
                    "padding": self._canvas_of and [self._canvas_of.stride, *self._canvas_of.fill],
                    "scale": self.pixels.scale,
                    "mean": self.mean,
                    "std": self.std,
                }
            ),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], place: str) -> Recipe:
        """Read what ``to_metadata`` wrote; without ``preprocess`` only squashing to ``size`` can be understood.

        Raises:
            CheckpointError: entries that are missing or cannot be read.
        """
        try:
            if "preprocess" in metadata:
                return _checked(_from_plain(json.loads(metadata["preprocess"]))).built()
            size = json.loads(metadata["size"])
            mean, std = (tuple(map(float, json.loads(metadata.get(key, "null")) or d)) for key, d in _NOTHING.items())
            if metadata.get("resize", SQUASH) == SQUASH and size is not None:
                return _checked(cls(({"type": "Resize", "size": (size[0], size[1])},), mean=mean, std=std))
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise CheckpointError(
                f"{place}: its metadata do not say how images are prepared ({error!r}): export the model again with "
                "isdfine export"
            ) from None
        raise CheckpointError(
            f"{place}: its metadata ask for resize {metadata.get('resize')!r} to {size} without the details "
            "(preprocess): export the model again with isdfine export"
        )

    def _one(self, image: Image.Image) -> tuple[Tensor, dict[str, Tensor]]:
        sample: tuple[Any, dict[str, Tensor]] = (image, {"orig_size": torch.tensor([image.height, image.width])})
        for op in self._modules:
            sample = op(*sample)
        return torch.from_numpy(np.array(sample[0])).permute(2, 0, 1), sample[1]  # (3, H, W)

    def _canvas(self, pixels: Tensor) -> tuple[int, ...]:
        stride = 1 if self._canvas_of is None else self._canvas_of.stride
        return tuple(-(-side // stride) * stride for side in pixels.shape[-2:])

    def _stacked(self, samples: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> Prepared:
        sizes = torch.stack([target["orig_size"] for _, target in samples]).numpy()
        if self._canvas_of is None:
            return Prepared(torch.stack([pixels for pixels, _ in samples]).numpy(), sizes, None)
        canvas, targets = self._canvas_of(samples)
        return Prepared(canvas.numpy(), sizes, torch.stack([target[IMAGE_SIZE] for target in targets]).numpy())


def recipe_of(config: Config) -> Recipe:
    """How a run prepares images for evaluation; squashed to ``eval_spatial_size`` where it does not say.

    Args:
        config: a run's, or that of a loaded detector, in which the sections stand alone (``load.inference_config``).

    Raises:
        ConfigError: random operations, own ones that are not known here, no resize, sizes that no image gets, or images
            of many sizes without padding.
    """
    if config.get("val_dataloader") is not None:
        places = ["val_dataloader.dataset.transforms", "val_dataloader.collate_fn"]
    else:
        places = [name for name in config.registry if name == "Compose" or name.endswith(_COLLATES)]
        places = [name for name in places if config.get(name) is not None]
    plans = [plan for name in places if isinstance(plan := config.planned(name), Plan)]
    transforms = next((plan for plan in plans if plan.cls is Compose), None)
    if transforms is None:
        return Recipe.squash(image_size_of(config))
    steps: list[Plan] = transforms.arguments.get("ops") or []
    ops = tuple({"type": step.cls.__name__, **_values(step)} for step in steps if not issubclass(step.cls, _BOXES_ONLY))
    pixels = next((_values(step) for step in steps if issubclass(step.cls, ConvertPILImage)), {"scale": True})
    padded = next((_values(plan) for plan in plans if issubclass(plan.cls, PaddedBatchCollateFunction)), None)
    padding = None if padded is None else {"stride": padded.get("stride", STRIDE), "fill": padded.get("fill", "mean")}
    _refuse_what_inference_cannot_do(ops, padding)
    if pixels.get("dtype", "float32") != "float32":
        raise ConfigError(f"{transforms.place}: dtype is {pixels['dtype']!r}, but models read float32")
    try:
        return _checked(Recipe(ops, padding, PixelConversion(scale=pixels["scale"])))
    except ValueError as error:
        raise ConfigError(f"{transforms.place}: {error}") from None


def _values(plan: Plan) -> dict[str, Any]:
    """Every argument by name, defaults included."""
    return {name: plan.arguments.get(name, known.default) for name, known in plan.schema.parameters.items()}


def _refuse_what_inference_cannot_do(ops: Sequence[Mapping[str, Any]], padding: Mapping[str, Any] | None) -> None:
    if unknown := [op["type"] for op in ops if op["type"] not in _BY_NAME]:
        raise ConfigError(
            f"the evaluation transforms hold {', '.join(unknown)}: inference knows {', '.join(_BY_NAME)}; "
            "remove what is random from val_dataloader.dataset.transforms.ops"
        )
    if not any(op["type"] in _RULES for op in ops):
        raise ConfigError(
            "the evaluation transforms resize nothing, so no input size is known: add Resize (or ResizeToFit, "
            "ResizeShortestEdge) to val_dataloader.dataset.transforms.ops"
        )
    if padding is None and ops[-1]["type"] not in _ONE_SIZE:
        raise ConfigError(
            f"the evaluation transforms end with {ops[-1]['type']}, which gives every image its own size: "
            "set val_dataloader.collate_fn to PaddedBatchCollateFunction, or add PadToSize"
        )


def image_size_of(config: Config) -> tuple[int, int]:
    """(height, width) that a config evaluates at, 640 x 640 where it does not say."""
    height, width = config.get("eval_spatial_size") or (640, 640)
    return int(height), int(width)


def _checked(recipe: Recipe) -> Recipe:
    """A recipe whose numbers can be meant.

    Raises:
        ValueError: sizes that no image gets, or numbers that are not three finite ones.
    """
    for op in recipe.ops:
        shorter_side = op["type"] == "ResizeShortestEdge"
        sides = [op["shortest_edge"], op["longest_edge"]] if shorter_side else list(op["size"])
        if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides) or len(sides) != 2:
            raise ValueError(f"{op['type']} to {sides}, expected whole pixels up to {MAX_SIDE}")
        if shorter_side and sides[0] > sides[1]:
            raise ValueError(f"{op['type']} to {sides}, expected a longest edge at least as long as the shortest")
    stride, fill = (STRIDE, 0) if recipe.padding is None else (recipe.padding["stride"], recipe.padding["fill"])
    if stride < 1 or stride % STRIDE:
        raise ValueError(f"padding has the stride {stride}, expected a multiple of {STRIDE} above 0")
    if fill != "mean" and not 0 <= fill <= 255:
        raise ValueError(f"padding has the fill {fill}, expected a pixel value 0..255, or mean")
    for name, values in (("mean", recipe.mean), ("std", recipe.std)):
        if len(values) != 3 or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name} is {values}, expected three numbers")
    if 0 in recipe.std:
        raise ValueError("std holds a 0")
    return recipe


_NOTHING = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def _from_plain(content: Mapping[str, Any]) -> Recipe:
    ops = tuple(
        {name: tuple(value) if isinstance(value, list) else value for name, value in op.items()}
        for op in content["ops"]
    )
    padding = None
    if content["padding"] is not None:
        stride, *fill = content["padding"]
        padding = {"stride": stride, "fill": "mean" if tuple(fill) == IMAGENET_MEAN else fill[0]}
    pixels = PixelConversion(scale=content["scale"])
    return Recipe(ops, padding, pixels, tuple(content["mean"]), tuple(content["std"]))
