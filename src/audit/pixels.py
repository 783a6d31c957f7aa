# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the image files of a data set hold: size, content digest and a small grey picture, each file read once."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..core.files import file_bytes
from ..data.dataset.images import (
    UNDECODABLE,
    Header,
    as_rgb,
    check_pixels,
    eight_bits,
    orientation_in_header,
    stored_size,
    why_undecodable,
)

THUMBNAIL = 32
"""Side of the grey picture: 1 KiB an image, so that 118,000 images fit into 120 MB."""

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Wraps an iterable of known length under a title: a progress bar, or nothing."""

_NO_HEADER = Header((0, 0), 1)


@dataclass(frozen=True)
class FilePixels:
    """One image file. Everything but ``problem`` and ``missing`` means nothing where there is a problem."""

    header: Header = _NO_HEADER
    """Its size and EXIF orientation."""
    digest: bytes = b""
    """blake2b of the file's bytes."""
    thumbnail: NDArray[np.uint8] | None = None
    """(32, 32) grey."""
    brightest: int = 255
    """Highest value of a pixel, 0..255, as training reads them."""
    missing: bool = False
    problem: str = ""
    """Why it cannot be used; empty for a good file."""

    @property
    def good(self) -> bool:
        """Whether it was decoded to the end."""
        return not self.problem


def silent(items: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """The progress bar that shows nothing."""
    del total, title
    return items


def read_pixels(
    paths: Sequence[Path], *, workers: int | None = None, progress: Progress = silent
) -> dict[Path, FilePixels]:
    """Read and decode files in threads: decoding releases the interpreter's lock.

    Args:
        paths: files; one that occurs twice is read once.
        workers: threads, None for one per core.
        progress: see ``Progress``.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return dict(zip(unique, progress(pool.map(read_one, unique), len(unique), "images")))


def read_one(path: Path) -> FilePixels:
    """Read one file; a JPEG is decoded to its last byte, but at an eighth of its size where that is enough."""
    try:
        content = file_bytes(path)
    except (FileNotFoundError, ValueError):  # ValueError: a name with a zero byte
        return FilePixels(missing=True, problem="no such file")
    except OSError as error:
        return FilePixels(problem=f"cannot be read ({error.strerror})")
    if not content:
        return FilePixels(problem="the file is empty (0 bytes)")
    digest = hashlib.blake2b(content, digest_size=16).digest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            header = Header(stored_size(image), orientation_in_header(image))
            image.draft("L", (2 * THUMBNAIL, 2 * THUMBNAIL))
            image.load()
            check_pixels(image)
            thumbnail, brightest = _thumbnail(image), _brightest(image)
    except UNDECODABLE as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no image format that Pillow knows" if unknown else why_undecodable(error)
        return FilePixels(problem=f"cannot be decoded ({reason})")
    return FilePixels(header, digest, thumbnail, brightest)


def _brightest(image: Image.Image) -> int:
    if image.mode.startswith("I"):
        return int(eight_bits(image).max())
    return int(np.max(as_rgb(image).getextrema()))


def _thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # Pillow would clip 16 bits to white
        values = np.asarray(image).astype(np.float64)
        values = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
        image = Image.fromarray((255 * values).astype(np.uint8))
    small: Image.Image = (
        (image if image.mode == "L" else as_rgb(image))
        .convert("L")
        .resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    )
    thumbnail: NDArray[np.uint8] = np.asarray(small, dtype=np.uint8).copy()
    return thumbnail
