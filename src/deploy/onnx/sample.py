# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Real images on which an exported graph is compared, and what PyTorch finds in them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ...core.errors import CheckpointError, DataError
from ...data.dataset.images import list_images
from ..backends.base import Outputs
from ..pictures import read_rgb
from ..preprocess import Recipe
from .compare import FP32, compare

WANTED = 8
"""Images in the largest batch that is compared."""
_CANDIDATES = 3 * WANTED
JITTERS, _DRAWS = (1e-6, 2e-7), 6
"""Size of the noise, in 0..1, and number of the draws that find images on which PyTorch itself is unstable. The larger
noise moves feature maps 15 times as far as rounding does, so a tie that rounding decides turns in every second or third
draw; two draws missed one of a D-FINE-M with random weights. The smaller noise, three units in the last place of a
bright pixel, is for models that are unstable on all images at the larger one, as a D-FINE-X with random weights."""
_Prepared = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64], Outputs]
Detect = Callable[[Tensor, NDArray[np.int64]], Outputs]
"""What the network reads, and original sizes -> what a detector answers."""


@dataclass(frozen=True, eq=False)
class VerificationSample:
    """Images of one size and what PyTorch finds in them."""

    pixels: NDArray[np.uint8]
    """(M, 3, H, W) RGB."""
    inputs: NDArray[np.float32]
    """(M, 3, H, W) what the network reads."""
    sizes: NDArray[np.int64]
    """(M, 2) original width and height."""
    expected: Outputs
    """Of the M images."""
    unstable: int
    """Images that were left out."""
    jitter: float
    """Noise, in 0..1, at which the images of the sample are stable."""
    layer_norms: int
    """Layer norms that the model runs in one pass; one that several layers share counts once, since a graph leaves out
    those of its results that lead nowhere."""

    @property
    def scale(self) -> NDArray[np.float64]:
        """(M, 4) pixels of the network's input per pixel of the original."""
        return _scale(self.pixels.shape, self.sizes)


def images_in(folder: Path) -> list[Path]:
    """Up to 24 images of a folder, spread over it.

    Raises:
        DataError: no such folder, or no image in it.
    """
    names = list_images(folder) if folder.is_dir() else []
    if not names:
        raise DataError(f"{folder}: no images to compare with: give a folder of real ones with --images")
    step = max(1, len(names) // _CANDIDATES)
    return [folder / name for name in names[::step][:_CANDIDATES]]


def draw_sample(
    model: nn.Module, postprocessor: nn.Module, paths: Sequence[Path], recipe: Recipe
) -> VerificationSample:
    """Prepare images as the run evaluates, and let PyTorch detect.

    Near-ties in the selection of queries make a detector jump at rounding noise. Such images would say nothing about
    the export, so those on which PyTorch's own answer moves beyond the fp32 tolerance when pixels change by 1e-6 are
    left out (by 2e-7 where that leaves none). That does not depend on the exported file.

    Args:
        model: the detector as it was trained, on the CPU; not its inference form, whose faults would go unseen.
        postprocessor: predictions and sizes -> detections.
        paths: images; the first 8 that can be used are taken. Where these are fewer, they are turned and mirrored as
            well: a batch that holds one image 8 times would not show that results are mixed up.
        recipe: resizes to one size.

    Raises:
        DataError: an image that cannot be decoded, or none on which PyTorch is stable.
        CheckpointError: the model itself finds numbers that are none.
    """
    model = copy.deepcopy(model).eval()

    def detect(floats: Tensor, sizes: NDArray[np.int64]) -> Outputs:
        with torch.inference_mode():
            labels, boxes, scores = postprocessor(model(floats), torch.from_numpy(sizes.copy()))
        return Outputs(labels.numpy(), boxes.numpy(), scores.numpy())

    for jitter in JITTERS:
        kept, unstable = _stable_images(detect, paths, recipe, jitter)
        if kept:
            break
    if not kept:
        raise DataError(
            f"PyTorch's own detections jump at rounding noise on all {unstable} images: give other ones with --images"
        )
    pixels, inputs, sizes, answers = (list(part) for part in zip(*(kept[i % len(kept)] for i in range(WANTED))))
    norms: set[str] = set()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.LayerNorm):
                hooks.enter_context(module.register_forward_hook(lambda *_, name=name: norms.add(name)))
        detect(torch.from_numpy(inputs[0]), sizes[0])
    return VerificationSample(
        np.concatenate(pixels),
        np.concatenate(inputs),
        np.concatenate(sizes),
        Outputs(*(np.concatenate(part) for part in zip(*answers))),
        unstable,
        jitter,
        len(norms),
    )


def _scale(shape: Sequence[int], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(M, 4) pixels of an input (..., H, W) per pixel of the originals, of (M, 2) width and height."""
    return np.tile(shape[:-3:-1], 2) / np.tile(sizes, 2)


def _stable_images(detect: Detect, paths: Sequence[Path], recipe: Recipe, jitter: float) -> tuple[list[_Prepared], int]:
    """The first images that can be used, and how many others were met before."""
    kept: list[_Prepared] = []
    unstable = 0
    for image in islice(_views(paths), _CANDIDATES):
        ((_, prepared),) = recipe.prepare([image])
        sizes = np.ascontiguousarray(prepared.sizes[:, ::-1])
        floats = recipe.to_input(torch.from_numpy(prepared.pixels.copy()))
        expected = detect(floats, sizes)
        if not (np.isfinite(expected.boxes).all() and np.isfinite(expected.scores).all()):
            raise CheckpointError(
                "PyTorch itself finds boxes or scores that are not finite on a real image: the weights are damaged; "
                "look for NaN in the run's log and export an earlier checkpoint"
            )
        if _is_stable(detect, floats, sizes, expected, jitter):
            kept.append((prepared.pixels, floats.numpy(), sizes, expected))
        else:
            unstable += 1
        if len(kept) == WANTED:
            break
    return kept, unstable


def _views(paths: Sequence[Path]) -> Iterator[Image.Image]:
    """The images; then, as long as more are asked for, all of them turned and mirrored in the seven ways there are."""
    for turn in (None, *Image.Transpose):
        for path in paths:
            try:
                image = read_rgb(path)
            except DataError as error:
                raise DataError(f"{error}; or take it out of the folder, or give other --images") from None
            yield image if turn is None else image.transpose(turn)


def _is_stable(detect: Detect, floats: Tensor, sizes: NDArray[np.int64], expected: Outputs, jitter: float) -> bool:
    for seed in range(_DRAWS):
        noise = torch.rand(floats.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        moved = detect(floats + noise * jitter * floats.max().clamp(min=1), sizes)
        if compare(expected, moved, _scale(floats.shape, sizes), FP32).problems(FP32):
            return False
    return True
