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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..core.config import Config
from ..core.errors import CheckpointError, ConfigError
from ..data.collate import IMAGENET_MEAN, CollateFunction, PaddedBatchCollateFunction
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
from ..data.transforms.ops import KeepAspect
from ..nn.padding import IMAGE_SIZE

MAX_SIDE = 1 << 14
"""Pixels; no network here takes larger images."""
SQUASH, FIT, SHORTER_SIDE = "squash", "fit", "shorter_side"
_RULES: dict[type, str] = {Resize: SQUASH, ResizeToFit: FIT, ResizeShortestEdge: SHORTER_SIDE}
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
    """Resize, pad, and the numbers that pixels become.

    Args:
        ops: ``Resize``, ``ResizeToFit``, ``ResizeShortestEdge`` and ``PadToSize``, applied in order.
        padding: makes a canvas around images whose size depends on their shape; None where all get one size.
        pixels: what 0..255 becomes.
        mean, std: of red, green, blue, applied after ``pixels``. Models of ours need none: what has to be normalised
            is inside the backbone.
    """

    ops: tuple[nn.Module, ...]
    padding: PaddedBatchCollateFunction | None = None
    pixels: PixelConversion = field(default_factory=PixelConversion)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def squash(cls, size: Sequence[int]) -> Recipe:
        """Resize to (height, width) whatever the shape of the image: the official recipe."""
        return cls((Resize((int(size[0]), int(size[1]))),))

    @classmethod
    def of_evaluation(cls, transforms: Compose, collate: CollateFunction | None = None) -> Recipe:
        """What a run evaluates with.

        Raises:
            ConfigError: random operations, own ones that are not known here, no resize, or images of many sizes without
                padding.
        """
        ops = tuple(op for op in transforms.ops if not isinstance(op, _BOXES_ONLY))
        unknown = [type(op).__name__ for op in ops if type(op).__name__ not in _BY_NAME]
        if unknown:
            raise ConfigError(
                f"the evaluation transforms hold {', '.join(unknown)}: inference knows {', '.join(_BY_NAME)}; "
                "remove what is random from val_dataloader.dataset.transforms.ops"
            )
        if not any(type(op) in _RULES for op in ops):
            raise ConfigError(
                "the evaluation transforms resize nothing, so no input size is known: add Resize (or ResizeToFit, "
                "ResizeShortestEdge) to val_dataloader.dataset.transforms.ops"
            )
        padding = collate if isinstance(collate, PaddedBatchCollateFunction) else None
        if padding is None and isinstance(ops[-1], KeepAspect):
            raise ConfigError(
                f"the evaluation transforms end with {type(ops[-1]).__name__}, which gives every image its own size: "
                "set val_dataloader.collate_fn to PaddedBatchCollateFunction, or add PadToSize"
            )
        return cls(ops, padding, transforms.pixels)

    @property
    def rule(self) -> str:
        """``squash``, ``fit`` or ``shorter_side``: what the first resize does."""
        return next(_RULES[type(op)] for op in self.ops if type(op) in _RULES)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that every image gets; None where it depends on the image."""
        last = self.ops[-1]
        return None if self.padding or not isinstance(last, (Resize, PadToSize)) else (last.size[0], last.size[1])

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
                    "ops": [_plain(op) for op in self.ops],
                    "padding": None if self.padding is None else [self.padding.stride, *self.padding.fill],
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
                return _checked(_from_plain(json.loads(metadata["preprocess"])))
            size = json.loads(metadata["size"])
            mean, std = (tuple(map(float, json.loads(metadata.get(key, "null")) or d)) for key, d in _NOTHING.items())
            if metadata.get("resize", SQUASH) == SQUASH and size is not None:
                return _checked(cls((Resize((size[0], size[1])),), mean=mean, std=std))
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise CheckpointError(
                f"{place}: its metadata do not say how images are prepared ({error!r}): export the model again with "
                "tools/export_onnx.py"
            ) from None
        raise CheckpointError(
            f"{place}: its metadata ask for resize {metadata.get('resize')!r} to {size} without the details "
            "(preprocess): export the model again with tools/export_onnx.py"
        )

    def _one(self, image: Image.Image) -> tuple[Tensor, dict[str, Tensor]]:
        sample: tuple[Any, dict[str, Tensor]] = (image, {"orig_size": torch.tensor([image.height, image.width])})
        for op in self.ops:
            sample = op(*sample)
        return torch.from_numpy(np.array(sample[0])).permute(2, 0, 1), sample[1]  # (3, H, W)

    def _canvas(self, pixels: Tensor) -> tuple[int, ...]:
        stride = 1 if self.padding is None else self.padding.stride
        return tuple(-(-side // stride) * stride for side in pixels.shape[-2:])

    def _stacked(self, samples: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> Prepared:
        sizes = torch.stack([target["orig_size"] for _, target in samples]).numpy()
        if self.padding is None:
            return Prepared(torch.stack([pixels for pixels, _ in samples]).numpy(), sizes, None)
        canvas, targets = self.padding(samples)
        return Prepared(canvas.numpy(), sizes, torch.stack([target[IMAGE_SIZE] for target in targets]).numpy())


def recipe_of(config: Config) -> Recipe:
    """How a run prepares images for evaluation; squashed to ``eval_spatial_size`` where it does not say.

    Args:
        config: a run's, or that of a loaded detector.

    Raises:
        ConfigError: operations that inference cannot do.
    """
    from ..load import inference_config  # brings every model, which exported files can do without

    small = config if config.get("val_dataloader") is None else inference_config(config.data, config.path)
    if small.get("Compose") is None:
        return Recipe.squash(image_size_of(small))
    collate = next((name for name in small.registry if name.endswith(_COLLATES) and small.get(name) is not None), None)
    return Recipe.of_evaluation(small.build("Compose"), None if collate is None else small.build(collate))


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
        sides = [op.shortest_edge, op.longest_edge] if isinstance(op, ResizeShortestEdge) else list(op.size)  # type: ignore[arg-type]
        if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
            raise ValueError(f"{type(op).__name__} to {sides}, expected whole pixels up to {MAX_SIDE}")
    for name, values in (("mean", recipe.mean), ("std", recipe.std)):
        if len(values) != 3 or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name} is {values}, expected three numbers")
    if 0 in recipe.std:
        raise ValueError("std holds a 0")
    return recipe


_NOTHING = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def _plain(op: nn.Module) -> dict[str, Any]:
    if isinstance(op, ResizeShortestEdge):
        return {"type": type(op).__name__, "shortest_edge": op.shortest_edge, "longest_edge": op.longest_edge}
    assert isinstance(op, (Resize, ResizeToFit, PadToSize))
    plain = {"type": type(op).__name__, "size": list(op.size)}
    return plain | ({"fill": op.fill, "padding_mode": op.padding_mode} if isinstance(op, PadToSize) else {})


def _from_plain(content: Mapping[str, Any]) -> Recipe:
    ops = []
    for plain in content["ops"]:
        arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
        ops.append(_BY_NAME[str(arguments.pop("type"))](**arguments))
    padding = None
    if content["padding"] is not None:
        stride, *fill = content["padding"]
        padding = PaddedBatchCollateFunction(stride, "mean" if tuple(fill) == IMAGENET_MEAN else fill[0])
    pixels = PixelConversion(scale=content["scale"])
    return Recipe(tuple(ops), padding, pixels, tuple(content["mean"]), tuple(content["std"]))
