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
from functools import cached_property
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
from ..transforms.decisions import as_tensors
from ..transforms.ops import PixelConversion
from ..transforms.rendering import GAP, Pixels, reduction
from .annotations import Annotations, TrainingRows
from .images import load_rgb
from .targets import report_targets

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
        allow_no_targets: go on, with a warning, where nothing is left to learn from: see ``report_targets``.

    Raises:
        DataError: training data (whose transforms make fractions of the boxes) without a target.
    """

    annotated: ClassVar[bool] = True
    """Whether there is a ground truth to evaluate against."""

    def __init__(
        self,
        annotations: Annotations,
        img_folder: str | Path,
        transforms: Compose | None = None,
        *,
        allow_no_targets: bool = False,
    ) -> None:
        self.annotations = annotations
        self.img_folder = Path(img_folder)
        self.transforms = Compose() if transforms is None else transforms
        if self.annotated:
            ops = list(self.transforms.ops)
            report_targets(annotations, ops, training=self.boxes_normalized, allowed=allow_no_targets)

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
        fused = self.transforms.fused_at(epoch)
        size, target = self._target(index)
        with seeded(seed, epoch, index, torch_only=fused is not None):
            if fused is not None:
                return fused(size, target, lambda scale: self._pixels(index, scale))
            boxes = tv_tensors.BoundingBoxes(torch.from_numpy(target["boxes"]), format="XYXY", canvas_size=size)
            sample: Sample = self.transforms(self._image(index), {**as_tensors(target), "boxes": boxes}, epoch=epoch)
            return sample

    def ground_truth(self, image_id: int) -> GroundTruth:
        """Annotated boxes of an image.

        Raises:
            DataError: no image has this id.
        """
        data = self.annotations
        index = next(iter(np.flatnonzero(data.image_ids == image_id).tolist()), None)
        if index is None:
            raise DataError(f"{data.place}: no image has the id {image_id}")
        size, target = self._target(index)
        boxes, labels = torch.from_numpy(target["boxes"]), torch.from_numpy(target["labels"])
        return GroundTruth(self.img_folder / data.file_names[index], size, boxes, labels, data.upright)

    def _image(self, index: int, divisor: int = 1) -> Image.Image:
        data = self.annotations
        height, width = data.sizes[index].tolist()
        owner = f"image {data.image_ids[index]} of {data.place}"
        path = self.img_folder / data.file_names[index]
        return load_rgb(path, (height, width), owner, upright=data.upright, divisor=divisor)

    def _pixels(self, index: int, scale: float) -> Pixels:
        """The image, decoded at no less than a scale in 0..1."""
        data, cache = self.annotations, self.transforms.cache
        size = (int(data.sizes[index, 0]), int(data.sizes[index, 1]))
        wanted = None if cache is None else cache.size_of(size, scale)
        if cache is not None and wanted is not None:
            path = self.img_folder / data.file_names[index]
            divisor = reduction(min(1.0, GAP * wanted[0] / size[0]))
            kept = cache.load(path, size, wanted, lambda: self._image(index, divisor), upright=data.upright)
            if kept is not None:
                return Pixels(kept, (wanted[0] / size[0], wanted[1] / size[1]))
        divisor = reduction(scale)
        return Pixels(self._image(index, divisor), (1 / divisor, 1 / divisor))

    def _target(self, index: int) -> tuple[tuple[int, int], dict[str, Any]]:
        """Size (height, width), and the entries of the target as arrays, or tensors where no op changes them."""
        data, rows = self.annotations, self._training_rows
        height, width = data.sizes[index].tolist()
        mine = slice(int(rows.offsets[index]), int(rows.offsets[index + 1]))
        return (height, width), {
            "boxes": rows.boxes_xyxy_px[mine].copy(),
            "labels": rows.labels[mine].copy(),
            "image_id": torch.tensor([int(data.image_ids[index])]),
            "area": rows.area_px[mine].copy(),
            "iscrowd": np.zeros(mine.stop - mine.start, np.int64),
            "orig_size": torch.tensor([height, width]),
        }

    @cached_property
    def _training_rows(self) -> TrainingRows:
        return self.annotations.training_rows()


@contextmanager
def seeded(seed: int, epoch: int, index: int, *, torch_only: bool = False) -> Iterator[None]:
    """Run with random states that depend on the arguments alone, and put the process's states back afterwards.

    Args:
        torch_only: nothing draws from Python's and numpy's generators, which are left alone then: that saves time.
    """
    digest = hashlib.blake2b(struct.pack("<qqq", seed, epoch, index), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    others = None if torch_only else (random.getstate(), np.random.get_state())
    state = torch.get_rng_state()
    if others is not None:
        random.seed(number)
        np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number % 2**63)  # torch.manual_seed would also reseed every GPU
    try:
        yield
    finally:
        if others is not None:
            random.setstate(others[0])
            np.random.set_state(others[1])
        torch.set_rng_state(state)
