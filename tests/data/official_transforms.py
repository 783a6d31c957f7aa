# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The published training augmentation as published: torchvision's own v2 transforms on PIL images, one after the other.

Written anew from a description of the recipe; the peer of tools/benchmark/data_pipeline.py, and what
the fused augmentation must agree with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from isdfine.data import transforms as T


class CropWithProbability(v2.RandomIoUCrop):
    """RandomIoUCrop that is applied with a probability."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, *inputs: Any) -> Any:
        """(image, target) -> the same, cropped or not."""
        if torch.rand(1) >= self.p:
            return inputs if len(inputs) > 1 else inputs[0]
        return super().forward(*inputs)


class ToFloat(v2.Transform):
    """PIL image -> float32 tensor in [0, 1]."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Convert one entry of the sample."""
        return F.pil_to_tensor(inpt).float() / 255.0 if isinstance(inpt, Image.Image) else inpt


class ToFractions(v2.Transform):
    """Corner boxes -> centre, width and height as fractions of the image."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Convert one entry of the sample."""
        if not isinstance(inpt, tv_tensors.BoundingBoxes):
            return inpt
        height, width = inpt.canvas_size
        boxes = F.convert_bounding_box_format(inpt, new_format="CXCYWH").as_subclass(Tensor)
        return boxes / torch.tensor([width, height, width, height], dtype=torch.float32)


def official_transforms(side: int = 640) -> list[nn.Module]:
    """The list of the official recipe."""
    return [
        v2.RandomPhotometricDistort(p=0.5),
        v2.RandomZoomOut(fill=0),
        CropWithProbability(p=0.8),
        v2.SanitizeBoundingBoxes(min_size=1),
        v2.RandomHorizontalFlip(),
        v2.Resize((side, side)),
        v2.SanitizeBoundingBoxes(min_size=1),
        ToFloat(),
        ToFractions(),
    ]


def our_ops(side: int = 640, resize: nn.Module | None = None, **crop: Any) -> list[nn.Module]:
    """The same list of ours, as configs/dfine/include/dataloader.yml has it.

    Args:
        side: of the result.
        resize: in place of Resize.
        crop: further arguments of RandomIoUCrop.
    """
    return [
        T.RandomPhotometricDistort(p=0.5),
        T.RandomZoomOut(fill=0),
        T.RandomIoUCrop(p=0.8, **crop),
        T.SanitizeBoundingBoxes(min_size=1),
        T.RandomHorizontalFlip(),
        resize or T.Resize((side, side)),
        T.SanitizeBoundingBoxes(min_size=1),
        T.ConvertPILImage(),
        T.ConvertBoxes(),
    ]


def official_target(boxes_xyxy_px: Tensor, labels: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """A target as v2 transforms take it; ``size`` (height, width)."""
    return {"boxes": tv_tensors.BoundingBoxes(boxes_xyxy_px, format="XYXY", canvas_size=size), "labels": labels}


def official_sample(
    path: str | Path, target: dict[str, Tensor], ops: list[nn.Module]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Decode an image and run the list on it."""
    with Image.open(path) as file:
        image: Any = file.convert("RGB")
    for op in ops:
        image, target = op(image, target)
    return image, target
