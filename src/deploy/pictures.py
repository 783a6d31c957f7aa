# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Images in whatever form a program has them, as upright RGB."""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..core.errors import DataError
from ..data.dataset.images import UNDECODABLE, opened, upright_rgb, why_undecodable

logger = logging.getLogger(__name__)

Picture = str | PathLike[str] | Image.Image | NDArray[Any] | Tensor
"""What counts as one image."""
Channels = Literal["rgb", "bgr"]
_PAGED = ("GIF", "PNG", "TIFF", "WEBP")
"""Formats whose further pictures are a user's. Those of phones' JPEG files (MPO) are previews and depth maps."""


def as_rgb(picture: Picture, channels: Channels = "rgb", name: str = "the image") -> Image.Image:
    """One image as upright RGB.

    Args:
        picture: path of a file; PIL image (both are turned by their EXIF orientation); array (H, W, 3), (H, W, 4),
            (H, W, 1) or (H, W) of uint8, or of uint16, which is divided by 256; tensor (3, H, W) or (1, H, W) of uint8,
            or of floats in [0, 1].
        channels: order of an array's colours. OpenCV reads ``bgr``; with the wrong order detectors still answer, only
            worse. Files, PIL images and tensors are RGB.
        name: for messages.

    Raises:
        DataError: no such file, not decodable, another type or shape, values out of range, no pixels.
    """
    if channels not in ("rgb", "bgr"):
        raise DataError(f"channels is {channels!r}: give 'rgb', or 'bgr' for arrays from OpenCV")
    if isinstance(picture, (str, PathLike)):
        return read_rgb(Path(picture))
    if isinstance(picture, Image.Image):
        return _decoded(picture, name)
    if isinstance(picture, Tensor):
        return Image.fromarray(_from_tensor(picture, name))
    if isinstance(picture, np.ndarray):
        return Image.fromarray(_from_array(picture, channels, name))
    raise DataError(f"{name} is a {type(picture).__name__}: give a path, a PIL image, an array or a tensor")


def read_rgb(path: Path) -> Image.Image:
    """Decode a file.

    Raises:
        DataError: no such file, a folder, empty, not to be read, or not decodable.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder: give its files, or use isdfine predict")
        with opened(path) as file:
            if file.format in _PAGED and getattr(file, "is_animated", False):
                logger.warning("%s: holds several pictures; only the first is used", path)
            return _decoded(file, str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such image: check the path") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read: check its permissions") from None
    except UNDECODABLE as error:
        if isinstance(error, DataError):
            raise
        empty = path.is_file() and path.stat().st_size == 0
        raise DataError(f"{path}: {'the file is empty' if empty else _reason(error, path)}") from None


def _reason(error: BaseException, path: Path) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"{why_undecodable(error)} (in Python: PIL.Image.MAX_IMAGE_PIXELS)"
    text = str(error).replace(f" {str(path)!r}", "").strip() or type(error).__name__
    return f"cannot be decoded as an image ({text}): replace or remove it"


def _decoded(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
        return upright_rgb(image)
    except UNDECODABLE as error:
        raise DataError(f"{name}: cannot be decoded as an image ({error}): replace or remove it") from None


def _from_array(array: NDArray[Any], channels: Channels, name: str) -> NDArray[np.uint8]:
    shape = " x ".join(map(str, array.shape))
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        first = (
            " (channels first: use image.transpose(1, 2, 0))" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        )
        raise DataError(f"{name} is an array of {shape}{first}: give height x width x 3, RGB")
    if 0 in array.shape:
        raise DataError(f"{name} is an array of {shape}: it has no pixels")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(
            f"{name} is an array of {array.dtype}: give uint8 with values 0..255 (for floats in [0, 1]: "
            "(image * 255).round().astype('uint8'))"
        )
    colours = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]
    return np.ascontiguousarray(colours[:, :, ::-1] if channels == "bgr" else colours)


def _from_tensor(tensor: Tensor, name: str) -> NDArray[np.uint8]:
    shape = " x ".join(map(str, tensor.shape))
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or 0 in tensor.shape:
        raise DataError(f"{name} is a tensor of {shape}: give 3 x height x width, RGB")
    if tensor.is_floating_point():
        low, high = tensor.min().item(), tensor.max().item()
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"{name} is a tensor of floats from {low:.4g} to {high:.4g}: give values in [0, 1] that are not "
                "normalised by mean and deviation, or uint8"
            )
        tensor = (tensor * 255).round().to(torch.uint8)
    if tensor.dtype != torch.uint8:
        raise DataError(f"{name} is a tensor of {tensor.dtype}: give uint8 (0..255) or floats in [0, 1]")
    pixels = tensor.detach().cpu().expand(3, -1, -1).permute(1, 2, 0)
    return np.ascontiguousarray(pixels.numpy())
