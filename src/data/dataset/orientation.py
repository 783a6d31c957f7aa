# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""EXIF orientation of one picture: how it is stored, how viewers show it, and to which of both an entry belongs."""

from __future__ import annotations

import struct

from PIL import Image

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
        found = image.getexif().get(_TAG, 1)
    except _UNREADABLE:
        return 1  # viewers pass over a broken block of EXIF, too
    return found if found in _TURNS else 1


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


def upright_size(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) as viewers show it."""
    return stored[::-1] if orientation in SIDEWAYS else stored


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
