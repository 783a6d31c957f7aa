# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Decode image files to RGB, whatever they hold."""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...core.errors import DataError
from ...core.files import check_regular
from .. import Ints
from .problems import Problems

SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap height and width."""
BACK = {6: 8, 8: 6}
"""Orientations that another one takes back; the rest take back themselves."""
_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of that orientation upright."""
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow raises for broken EXIF."""
_TIFF_HEIGHT, _TIFF_WIDTH = 257, 256


def orientation_of(image: Image.Image) -> int:
    """1..8 from EXIF; 1 where there is none, or none that can be read. A PNG file is decoded for it."""
    if image.format == "PNG":
        image.load()  # its EXIF may stand behind the pixels
    return _orientation(image)


def orientation_in_header(image: Image.Image) -> int:
    """``orientation_of`` an opened file that is not decoded for it."""
    if image.format != "PNG" or "exif" in image.info:
        return _orientation(image)
    if content := _exif_of_png(image):
        image.info["exif"] = content  # else Pillow would decode the picture to get behind it
        return _orientation(image)
    return 1


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_TAG, 1)
    except _UNREADABLE:
        return 1  # viewers pass over a broken block of EXIF, too
    return orientation if orientation in _TURNS else 1


def _exif_of_png(image: Image.Image) -> bytes:
    """The chunk may stand behind the pixels."""
    file = image.fp  # type: ignore[attr-defined]
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            content: bytes = file.read(length)
            return content
        file.seek(length + 4, 1)
    return b""


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened file as stored: Pillow gives TIFF files the size that they have when turned."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(_TIFF_HEIGHT, image.height)), int(tags.get(_TIFF_WIDTH, image.width))


def belongs_upright(size: tuple[int, int], stored: tuple[int, int], orientation: int, *, default: bool) -> bool:
    """Whether an entry belongs to the picture as viewers show it.

    Args:
        size: (height, width) of the entry.
        stored: (height, width) of the file.
        default: what holds where the size cannot tell: squares, mirrored and upside-down pictures.
    """
    if orientation in SIDEWAYS and stored[0] != stored[1]:
        return size != stored
    return default


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Upright by an orientation. Pillow's exif_transpose writes the EXIF anew and so fails on other odd tags."""
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


logger = logging.getLogger(__name__)
SUFFIXES = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg",
    ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Files that count as images where a folder is listed: pictures that Pillow reads without a plug-in."""
_BESIDE_IMAGES = (".cache", ".csv", ".db", ".ini", ".json", ".md", ".odgt", ".txt", ".xml", ".yaml", ".yml", ".zip")
"""Files that commonly lie among images and that nobody takes for one."""
_THREADS = 8
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF."""
_WHITE_IS_ZERO = 0
UNDECODABLE = (*_UNREADABLE, Image.DecompressionBombError)
"""What Pillow raises for broken files: it has no one error for that."""


def limit_pixels(largest: int | None) -> None:
    """Set the largest image, in pixels, that this process decodes; None keeps Pillow's limit, 178,956,970."""
    if largest is not None:
        Image.MAX_IMAGE_PIXELS = largest // 2  # Pillow warns from here on and refuses twice as much
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def why_undecodable(error: BaseException) -> str:
    """What Pillow said, and what to do about a picture that is only too large."""
    large = isinstance(error, Image.DecompressionBombError)
    return f"{error} If it is none, raise --max-pixels, or max_pixels of the config" if large else str(error)


def load_rgb(
    path: Path, size: tuple[int, int], owner: str = "its entry", *, upright: bool = False, divisor: int = 1
) -> Image.Image:
    """Decode an image and check it against its annotated size.

    An image that EXIF lays on its side is turned where the annotated size is that of the turned image. Squares,
    mirrored and upside-down images have one size in both frames: ``upright`` says whether they are turned.

    Args:
        path: the file.
        size: annotated (height, width).
        owner: who says so, for messages: ``image 17 of train.json``.
        upright: boxes belong to the image as viewers turn it by its EXIF orientation, where the size cannot tell.
        divisor: of both sides of the result, rounded up: 1, 2, 4 or 8. A JPEG is not even decoded in full then.

    Raises:
        DataError: missing, not decodable, or of another size; boxes of a wrong size would be scaled wrongly in silence.
    """
    try:
        with opened(path) as file:
            stored, orientation = stored_size(file), orientation_of(file)
            turn = orientation != 1 and belongs_upright(size, stored, orientation, default=upright)
            whole = file.size
            if divisor > 1 and not (turn and any(side % divisor for side in stored)):  # else its blocks begin elsewhere
                smaller = (max(1, file.width // divisor), max(1, file.height // divisor))
                file.draft(None, smaller)  # JPEG; others ignore it
            drafted = file.size != whole
            file.load()
            image = _rgb(file)
            if file.format == "TIFF" and orientation != 1:  # Pillow has turned it
                image = image if turn else turned(image, BACK.get(orientation, orientation))
            elif turn:
                image = turned(image, orientation)
            if divisor > 1 and not drafted:
                image = image.reduce(divisor)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image, but {owner} names it: check img_folder") from error
    except UNDECODABLE as error:
        why = why_undecodable(error)
        raise DataError(
            f"{path}: cannot be decoded ({why}), wanted for {owner}: replace the file or remove its entry"
        ) from error
    if (image.height, image.width) != (-(-size[0] // divisor), -(-size[1] // divisor)):
        raise DataError(
            f"{path} has height, width {stored}, but {owner} says {size}: "
            "the boxes would not fit; correct the annotation or the file"
        )
    return image


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file, not decoded yet.

    Given a file's name, Pillow maps plain TIFF files into memory, and then mixes up the pixels of those whose
    orientation lays them on their side (seen with Pillow 13.0); from an open file it does not.

    Raises:
        OSError and what else stands in ``UNDECODABLE``.
    """
    check_regular(path)
    with open(path, "rb") as file:
        try:
            image = Image.open(file)
        except UnidentifiedImageError:  # its text names the open file
            raise UnidentifiedImageError(f"cannot identify image file {str(path)!r}") from None
        with image:
            yield image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any decoded image as viewers show it: RGB of 8 bits, turned by its EXIF orientation.

    16 bits are divided by 256, grey is repeated, palettes and CMYK are converted, transparency is dropped. This is what
    ``load_rgb`` does with ``upright``. A turned image forgets its orientation, so that doing it again changes nothing.
    """
    orientation = orientation_of(image)
    rgb = turned(_rgb(image), orientation)
    if orientation != 1:
        rgb.info = {}  # Pillow copies EXIF and XMP to the turned image, where they are no longer true
    return rgb


def walk(root: Path, depth: int | None = None) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, down to a depth, with the names of the files in each, in the order of names.

    Links are followed; a folder that is reached in two ways comes once, under the first name of the alphabet. What is
    hidden is left out.
    """
    visited: set[str] = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        real, level = os.path.realpath(parent), len(Path(parent).relative_to(root).parts)
        is_end = real in visited or (depth is not None and level >= depth)  # a link to a folder that holds it has none
        folders[:] = [] if is_end else sorted(name for name in folders if not name.startswith("."))
        if real not in visited:
            visited.add(real)
            yield Path(parent), sorted(name for name in names if not name.startswith("."))


def list_images(folder: Path, *, recursive: bool = True) -> list[str]:
    """Images in a folder and those below it (see ``walk``), as relative paths in the order of their names.

    Files that may be pictures but have none of ``SUFFIXES`` are counted in a warning.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    for parent, names in walk(folder, None if recursive else 0):
        inside = "" if parent == Path(folder) else os.path.relpath(parent, folder)
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                images.append(os.path.join(inside, name))
            elif suffix not in _BESIDE_IMAGES:
                others[suffix or "without suffix"] += 1
    if others:
        logger.warning(
            "%s: files of other kinds are left out (%s): convert pictures (read are %s), give videos by name",
            folder, ", ".join(f"{count} {kind}" for kind, count in sorted(others.items())), ", ".join(SUFFIXES),
        )  # fmt: skip
    return sorted(images)


def image_sizes(
    paths: Sequence[Path], *, upright: bool = False, problems: Problems | None = None
) -> list[tuple[int, int] | None]:
    """Sizes (height, width) of n images from their headers, without decoding them.

    Args:
        paths: the files.
        upright: as viewers show the image, turned by its EXIF orientation.
        problems: where to report; None raises.

    Returns:
        One per path; None for those that were reported.

    Raises:
        DataError: a file that is missing or no image.
    """
    problems = problems or Problems()
    sizes: list[tuple[int, int] | None] = [None] * len(paths)
    for index, header in enumerate(read_headers(paths)):
        if isinstance(header, Header):
            sizes[index] = header.upright if upright else header.stored
        elif header is None:
            problems.report("missing image", paths[index], "no such image: add it or remove its entry")
        else:
            problems.report("unreadable image", paths[index], header)
    return sizes


class Header(NamedTuple):
    """What an image file says before its pixels."""

    stored: tuple[int, int]
    """(height, width)"""
    orientation: int
    """1..8"""

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) as viewers show it."""
        return self.stored[::-1] if self.orientation in SIDEWAYS else self.stored


def read_headers(paths: Sequence[Path]) -> list[Header | str | None]:
    """Headers of n files, without decoding them; for others what is wrong, None for one that is missing."""

    def read(path: Path) -> Header | str | None:
        try:
            with opened(path) as file:
                return Header(stored_size(file), orientation_in_header(file))
        except FileNotFoundError:
            return None
        except UNDECODABLE as error:
            return f"cannot be read as an image ({why_undecodable(error)}): replace the file or remove its entry"

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, paths))


def check_pixels(image: Image.Image) -> None:
    """Refuse pixels of which nobody can tell what black and white are: Pillow would clip them in silence.

    Raises:
        ValueError: floats, signed numbers, or more than 16 bits.
    """
    tags = getattr(image, "tag_v2", {})  # of TIFF
    if image.mode == "F" or 3 in tags.get(_SAMPLE_FORMAT, ()):
        kind = "float"
    elif 2 in tags.get(_SAMPLE_FORMAT, ()):
        kind = "signed"
    elif max(tags.get(_BITS_PER_SAMPLE, (1,))) > 16:
        kind = "32-bit"
    else:
        return
    raise ValueError(f"{kind} pixels: convert to 8 or 16 bits")


def _rgb(image: Image.Image) -> Image.Image:
    check_pixels(image)
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip everything above 255 to white
        image = Image.fromarray(eight_bits(image))
    return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of 8 bits in three colours, without its transparency."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns
    return image if image.mode == "RGB" else image.convert("RGB")


def eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W) grey of a picture of up to 16 bits."""
    values: Ints = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(_BITS_PER_SAMPLE, (16,)))  # 12 in some TIFF files
    if values.size and (values.min() < 0 or values.max() >> bits):
        raise ValueError(f"pixels from {values.min()} to {values.max()}: convert to 8 or 16 bits")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8 bits only
        values = (1 << bits) - 1 - values
    eight: NDArray[np.uint8] = (values >> (bits - 8)).astype(np.uint8)
    return eight
