# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Decode image files to RGB, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ...core.errors import DataError

_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for broken files: it has no one error for that."""


def load_rgb(path: Path, size: tuple[int, int], owner: str = "its entry") -> Image.Image:
    """Decode an image and check it against its annotated size.

    COCO boxes belong to the pixels as stored, so an EXIF orientation is applied only where the annotated size
    is that of the turned image and not that of the stored one.

    Args:
        path: the file.
        size: annotated (height, width).
        owner: who says so, for messages: ``image 17 of train.json``.

    Raises:
        DataError: missing, not decodable, or of another size; boxes of a wrong size would be scaled wrongly in silence.
    """
    try:
        with Image.open(path) as file:
            file.load()
            image = _rgb(file)
            turned = ImageOps.exif_transpose(image) if (file.height, file.width) != size else image
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image, but {owner} names it: check img_folder") from error
    except _UNDECODABLE as error:
        raise DataError(
            f"{path}: cannot be decoded ({error}), wanted for {owner}: replace the file or remove its entry"
        ) from error
    if (turned.height, turned.width) != size:
        raise DataError(
            f"{path} has height, width {(image.height, image.width)}, but {owner} says {size}: "
            "the boxes would not fit; correct the annotation or the file"
        )
    return turned


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip everything above 255 to white
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        exif, image = image.getexif(), Image.fromarray(values.astype(np.uint8))
        image.getexif().update(exif)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns
    return image if image.mode == "RGB" else image.convert("RGB")
