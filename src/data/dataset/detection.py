# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From annotations and image files to samples: what every data set format shares."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ...core.errors import DataError
from ..label_space import LabelSpace
from ..transforms.compose import Compose
from ..transforms.ops import PixelConversion
from .annotations import Annotations
from .images import load_rgb

Sample = tuple[Any, dict[str, Tensor]]
"""An image (uint8 ``tv_tensors.Image`` (3, H, W) once ConvertPILImage ran) and its target."""


class SampleKey(NamedTuple):
    """What a sampler asks for: all that the randomness of a sample depends on."""

    epoch: int
    sample: int
    seed: int = 0


@dataclass(frozen=True)
class GroundTruth:
    """The annotated boxes of one image file as a person wants to see them."""

    path: Path
    size: tuple[int, int]
    """(height, width) in pixels."""
    boxes: Tensor
    """(T, 4) xyxy pixels, float32; crowd regions and boxes without area left out."""
    labels: Tensor
    """(T,) int64 contiguous index."""
    upright: bool = False
    """See ``Annotations``."""

    def image(self) -> Image.Image:
        """Decode the file, RGB, turned as the boxes need it."""
        return load_rgb(self.path, self.size, upright=self.upright)


class DetectionDataset(Dataset[Sample]):
    """Images with boxes.

    ``dataset[index]`` or ``dataset[SampleKey(epoch, sample, seed)]`` is a sample. Its augmentation depends on that key
    alone, never on the worker that makes it or on what was asked before.

    Args:
        annotations: checked annotations.
        img_folder: folder that their file names are relative to; all files were seen to exist.
        transforms: applied to (image, target), or None for the bare decoded image.
    """

    annotated: ClassVar[bool] = True
    """Whether there is a ground truth to evaluate against."""

    def __init__(self, annotations: Annotations, img_folder: str | Path, transforms: Compose | None = None) -> None:
        self.annotations = annotations
        self.img_folder = Path(img_folder)
        self.transforms = Compose() if transforms is None else transforms

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """The classes that the data set of a config section will have, reading as little as possible.

        Args:
            section: the constructor's arguments as a config gives them, without a class count.

        Returns:
            None where the section does not say.
        """
        return None

    @property
    def label_space(self) -> LabelSpace:
        """The classes of the labels."""
        return self.annotations.label_space

    @property
    def pixels(self) -> PixelConversion:
        """What the loader has to do with the uint8 pixels on the device."""
        return self.transforms.pixels

    @property
    def boxes_normalized(self) -> bool:
        """Whether targets hold cxcywh fractions (training) or xyxy pixels of the transformed image."""
        return self.transforms.normalizes_boxes

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: int | tuple[int, ...]) -> Sample:
        epoch, index, seed = SampleKey(*key) if isinstance(key, tuple) else SampleKey(0, int(key))
        image, target = self._load(index)
        with _seeded(seed, epoch, index):
            return self.transforms(image, target, epoch=epoch)

    def ground_truth(self, image_id: int) -> GroundTruth:
        """Annotated boxes of an image.

        Raises:
            DataError: no image has this id.
        """
        found = np.flatnonzero(self.annotations.image_ids == image_id)
        if not found.size:
            raise DataError(f"{self.annotations.place}: no image has the id {image_id}")
        index = int(found[0])
        boxes, kept = self.annotations.training_boxes(index)
        height, width = self.annotations.sizes[index].tolist()
        labels = self.annotations.labels[self.annotations.rows(index)][kept]
        return GroundTruth(
            self.img_folder / self.annotations.file_names[index],
            (height, width),
            torch.from_numpy(boxes[kept].astype(np.float32)),
            torch.from_numpy(labels),
            self.annotations.upright,
        )

    def _load(self, index: int) -> tuple[Image.Image, dict[str, Tensor]]:
        data = self.annotations
        height, width = data.sizes[index].tolist()
        path = self.img_folder / data.file_names[index]
        owner = f"image {data.image_ids[index]} of {data.place}"
        image = load_rgb(path, (height, width), owner, upright=data.upright)
        rows = data.rows(index)
        boxes, kept = data.training_boxes(index)
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes[kept].astype(np.float32)), format="XYXY", canvas_size=(height, width)
            ),
            "labels": torch.from_numpy(data.labels[rows][kept]),
            "image_id": torch.tensor([int(data.image_ids[index])]),
            "area": torch.from_numpy(data.area_px[rows][kept].astype(np.float32)),
            "iscrowd": torch.zeros(int(kept.sum()), dtype=torch.int64),
            "orig_size": torch.tensor([height, width]),
        }
        return image, target


@contextmanager
def _seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Run with random states that depend on the arguments alone, and put the process's states back afterwards."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, epoch, index), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number % 2**63)  # torch.manual_seed would also reseed every GPU
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
