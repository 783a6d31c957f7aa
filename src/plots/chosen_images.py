# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Images that somebody wants to look at: files, or images of a data set, ready for a network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..core.errors import DataError
from ..data.dataset.detection import DetectionDataset, GroundTruth
from ..deploy.pictures import read_rgb
from ..deploy.preprocess import Recipe


@dataclass(frozen=True, eq=False)
class ChosenImage:
    """An image as it is, and as a network reads it."""

    name: str
    """What its pictures are called; no two images have the same."""
    image: Image.Image
    truth: GroundTruth | None
    """None for a file that is not in the data set."""
    images: Tensor
    """(1, 3, H, W) as the network reads it."""
    size: tuple[int, int]
    """(height, width) in pixels that fractions of boxes refer to."""
    image_sizes: Tensor | None
    """(1, 2) height and width of the image inside its canvas; None where it fills it."""


def chosen_images(
    wanted: Sequence[str], dataset: DetectionDataset, recipe: Recipe, device: torch.device
) -> Iterator[ChosenImage]:
    """Open one image after the other.

    Args:
        wanted: ids or names of images of the data set, or paths of any files.
        recipe: makes the network's input.

    Raises:
        DataError: something that is none of these, or a file that cannot be read.
    """
    ids, names = _known(dataset), set[str]()
    for text in wanted:
        image_id, truth = ids.get(text, ids.get(str(Path(text).resolve()))), None
        if image_id is not None:
            truth = dataset.ground_truth(image_id)
            name, image = f"{image_id}_{file_stem(truth.path)}", truth.image()
        elif Path(text).is_file():
            name, image = file_stem(text), read_rgb(Path(text))
        else:
            place = dataset.annotations.place
            raise DataError(f"--images {text}: neither a file nor a name or id of an image in {place}")
        name = next(free for free in chain([name], (f"{name}-{number}" for number in count(2))) if free not in names)
        names.add(name)
        ((_, prepared),) = recipe.prepare([image])
        height, width = prepared.sizes[0].tolist()
        image_sizes = None if prepared.image_sizes is None else torch.from_numpy(prepared.image_sizes)
        images = recipe.to_input(torch.from_numpy(prepared.pixels).to(device))
        yield ChosenImage(name, image, truth, images, (height, width), image_sizes)


def file_stem(path: str | Path) -> str:
    """The name of a file without its suffix and without what file systems do not like."""
    return re.sub(r"[^\w.-]+", "_", Path(path).stem)[:80]


def _known(dataset: DetectionDataset) -> dict[str, int]:
    """What an image of the data set may be called: id, name as annotated, name without folders, path."""
    data = dataset.annotations
    known: dict[str, int] = {}
    for name, image_id in zip(reversed(data.file_names), reversed(data.image_ids.tolist())):  # of equal names the first
        known |= {str((dataset.img_folder / name).resolve()): image_id, Path(name).name: image_id}
    known |= dict(zip(data.file_names, data.image_ids.tolist()))
    return known | {str(image_id): image_id for image_id in data.image_ids.tolist()}
