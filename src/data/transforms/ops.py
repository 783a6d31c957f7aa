# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The augmentations of the official recipes under their official names, on torchvision's public v2 transforms.

All take and return (image, target). Until ConvertPILImage the image is a PIL image, as in the official recipe: PIL's
resampling and colour arithmetic differ from the tensor versions. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image as PILImage
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ...core.errors import check_share
from ...core.registry import REGISTRY, register

PER_BOX = ("labels", "area", "iscrowd")
"""Target entries with one row per box."""


@dataclass(frozen=True)
class PixelConversion:
    """What happens to uint8 pixels on the device: a quarter of the bytes of float images travels there."""

    scale: bool = True
    """True: 0..255 becomes 0..1; False: 0..255 as floats."""

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images of any shape and layout -> float32 of the same shape, contiguous, as converted in the worker."""
        floats = images.to(torch.float32, memory_format=torch.contiguous_format)
        return floats.div_(255.0) if self.scale else floats


@register
class EmptyTransform(v2.Identity):
    """Changes nothing: a placeholder in a list of ops."""


@register
class RandomPhotometricDistort(v2.RandomPhotometricDistort):
    """Random brightness, contrast, saturation, hue and channel order.

    Args:
        brightness, contrast, saturation: range of the factor.
        hue: range of the shift in turns, within [-0.5, 0.5].
        p: probability of each single distortion.
    """


@register
class RandomZoomOut(v2.RandomZoomOut):
    """Put the image at a random place of a larger canvas.

    Args:
        fill: pixel value 0..255 of the canvas, or one per channel.
        side_range: range of canvas side / image side.
        p: probability.
    """

    def __init__(self, fill: int | list[int] = 0, side_range: tuple[float, float] = (1.0, 4.0), p: float = 0.5) -> None:
        super().__init__(fill=fill, side_range=side_range, p=p)


@register
class RandomIoUCrop(v2.RandomIoUCrop):
    """Crop so that some box keeps at least a random overlap with the crop (SSD's augmentation).

    Boxes with their centre outside become empty: SanitizeBoundingBoxes must follow.

    Args:
        min_scale, max_scale: range of crop side / image side.
        min_aspect_ratio, max_aspect_ratio: range of crop width / height.
        sampler_options: overlaps to choose from; one of them at least 1, which means no crop. None: torchvision's.
        trials: crops tried per chosen overlap.
        p: probability that a crop is looked for.
        aspect_change: largest factor between the aspect ratios of the image and of the crop, at least 1, so that crops
            stay in the batches of their image's shape. None: no limit.
    """

    def __init__(
        self,
        min_scale: float = 0.3,
        max_scale: float = 1.0,
        min_aspect_ratio: float = 0.5,
        max_aspect_ratio: float = 2.0,
        sampler_options: list[float] | None = None,
        trials: int = 40,
        p: float = 1.0,
        aspect_change: float | None = None,
    ) -> None:
        check_share("RandomIoUCrop.p", p)
        super().__init__(min_scale, max_scale, min_aspect_ratio, max_aspect_ratio, sampler_options, trials)
        if max(self.options) < 1:
            raise ValueError(
                f"RandomIoUCrop: sampler_options {sampler_options} holds no value of at least 1 (= no crop): "
                "an image without a fitting crop would be tried forever; add 1.0"
            )
        if aspect_change is not None and aspect_change < 1:
            raise ValueError(f"RandomIoUCrop: aspect_change is {aspect_change}: give a factor of at least 1, or ~")
        self.p = p
        self.aspect_change = aspect_change

    def forward(self, *inputs: Any) -> Any:
        """(image, target) -> the same, cropped or not."""
        image, target = inputs if len(inputs) > 1 else inputs[0]
        height, width = F.get_size(image)
        too_small = min(height, width) * self.min_scale < 1  # torchvision would divide by a crop height of 0
        if torch.rand(1) >= self.p or not len(target["boxes"]) or too_small:
            return image, target
        return super(RandomIoUCrop, self.for_aspect(width / height)).forward(image, target)

    def for_aspect(self, aspect: float) -> RandomIoUCrop:
        """This transform for an image of one aspect ratio."""
        if self.aspect_change is None:
            return self
        own = copy.copy(self)
        own.min_aspect_ratio = max(self.min_aspect_ratio, aspect / self.aspect_change)
        own.max_aspect_ratio = min(self.max_aspect_ratio, aspect * self.aspect_change)
        return own


@register
class SanitizeBoundingBoxes(v2.SanitizeBoundingBoxes):
    """Drop boxes that are too small, together with their labels, areas and crowd flags.

    Args:
        min_size: smallest width and height kept, at least 1 pixel.
        min_area: smallest area kept, at least 1 pixel.
    """

    def __init__(self, min_size: float = 1.0, min_area: float = 1.0) -> None:
        super().__init__(min_size=min_size, min_area=min_area, labels_getter=_per_box_entries)


def _per_box_entries(inputs: Any) -> tuple[Tensor, ...]:
    target = inputs[1]
    return tuple(target[name] for name in PER_BOX if name in target)


@register
class RandomHorizontalFlip(v2.RandomHorizontalFlip):
    """Mirror left and right with probability ``p``."""


@register
class ConvertPILImage(v2.Transform):
    """Turn the PIL image into a uint8 tensor, and say what the loader makes of it on the device.

    Args:
        dtype: must be ``float32``, the type that models read.
        scale: True: pixels end up in [0, 1]; False: 0..255.
    """

    def __init__(self, dtype: str = "float32", scale: bool = True) -> None:
        super().__init__()
        if dtype != "float32":
            raise ValueError(f"ConvertPILImage: dtype is {dtype!r}, but models read float32: set dtype: float32")
        self.pixels = PixelConversion(scale=scale)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Convert one entry of the sample, for v2.Transform."""
        return F.to_image(inpt) if isinstance(inpt, PILImage) else inpt


@register
class ConvertBoxes(v2.Transform):
    """Change the format of the boxes; with ``normalize`` they become plain fractions of the image.

    Args:
        fmt: ``cxcywh``, ``xyxy`` or ``xywh``. Models train on normalised cxcywh.
        normalize: divide by the width and height of the transformed image.
    """

    def __init__(self, fmt: str = "cxcywh", normalize: bool = True) -> None:
        super().__init__()
        if fmt not in ("cxcywh", "xyxy", "xywh"):
            raise ValueError(f"ConvertBoxes: fmt is {fmt!r}: choose cxcywh, xyxy or xywh")
        self.fmt = fmt
        self.normalize = normalize

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Convert one entry of the sample, for v2.Transform."""
        if not isinstance(inpt, tv_tensors.BoundingBoxes):
            return inpt
        height, width = inpt.canvas_size
        boxes = F.convert_bounding_box_format(inpt, new_format=self.fmt.upper())
        if not self.normalize:
            return boxes
        return boxes.as_subclass(Tensor) / torch.tensor([width, height, width, height], dtype=torch.float32)


for _name, _op in {  # RT-DETR's first repository
    "SanitizeBoundingBox": SanitizeBoundingBoxes,
    "ConvertBox": ConvertBoxes,
    "ToImageTensor": ConvertPILImage,
    "ConvertDtype": ConvertPILImage,
}.items():
    REGISTRY.alias(_name, _op)
