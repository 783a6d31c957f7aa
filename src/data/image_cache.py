# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Large images at a useful size on disk, so that they are decoded in full once only."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ..core.entries import DIGEST_BYTES, Entries
from ..core.errors import ConfigError
from ..core.registry import register

WORTH = 0.6
"""Largest side of a cached image over the original's at which keeping it is worth the disk."""
_MADE_AS = struct.Struct("<IIII?")


@register
class ImageCache:
    """A folder of resized images that runs may share, also at the same time.

    An entry's name is a digest of the file's content and of what was made of it, so a changed image is another entry.
    An entry is a JPEG behind its length and digest; what does not agree with them is made anew. What a sample holds
    does not depend on the folder: where it is full, or cannot be written, the same image is made for the moment, after
    one warning of each process. That takes longer than without a cache.

    Args:
        folder: made where it is missing; entries may be deleted at any time.
        side: pixels of the shorter side of entries; half as much again as the images that models see is enough. Crops
            that need more are cut from the original.
        max_gigabytes: size of the folder at which nothing is added any more.
        quality: of the JPEG entries, 1..100; colours are not subsampled.
    """

    def __init__(self, folder: str, side: int = 960, max_gigabytes: float = 50.0, *, quality: int = 95) -> None:
        wrong = [f"{name} is {value}: give {what}" for name, value, good, what in (
            ("side", side, side >= 32, "32 pixels or more"),
            ("max_gigabytes", max_gigabytes, max_gigabytes > 0, "a number above 0"),
            ("quality", quality, 1 <= quality <= 100, "1..100"),
        ) if not good]  # fmt: skip
        if wrong:
            raise ConfigError(f"ImageCache: {'; '.join(wrong)}")
        self.folder = Path(folder)
        self.side = side
        self.quality = quality
        self._entries = Entries(
            self.folder,
            int(max_gigabytes * 1e9),
            what="image cache",
            when_full="other images are made anew each time; raise max_gigabytes, or do without the cache",
            magic=b"ISDFIMG1",
        )

    def size_of(self, size: tuple[int, int], scale: float) -> tuple[int, int] | None:
        """(height, width) of the entry of an image of ``size``; None: not worth it, or less than ``scale`` of it."""
        shrink = self.side / min(size)
        if shrink > WORTH or shrink < scale:
            return None
        return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))

    def load(
        self,
        path: Path,
        size: tuple[int, int],
        wanted: tuple[int, int],
        decode: Callable[[], Image.Image],
        *,
        upright: bool = False,
    ) -> Image.Image | None:
        """An image, resized.

        Args:
            path: its file.
            size: its (height, width).
            wanted: (height, width), from ``size_of``.
            decode: gives it, at any scale.
            upright: whether ``decode`` turns it by its EXIF orientation in any case.

        Returns:
            None where the file cannot be read.
        """
        try:
            before = os.stat(path)
            content = path.read_bytes()
        except OSError:
            return None  # whoever decodes it says what is wrong
        made_as = _MADE_AS.pack(*size, self.side, self.quality, upright)
        digest = hashlib.blake2b(content + made_as, digest_size=DIGEST_BYTES).hexdigest()
        jpeg = self._entries.read(digest)
        if jpeg is None:
            buffer = io.BytesIO()
            resized = decode().resize(wanted[::-1], Image.Resampling.BILINEAR)
            resized.save(buffer, "JPEG", quality=self.quality, subsampling=0)
            jpeg = buffer.getvalue()
            if _same_file(before, path):
                self._entries.write(digest, jpeg)
        image = Image.open(io.BytesIO(jpeg))
        image.load()
        return image


def _same_file(before: os.stat_result, path: Path) -> bool:
    """Whether nobody has written to a file since: what was decoded belongs to the content that was read."""
    try:
        now = os.stat(path)
    except OSError:
        return False
    return (now.st_ino, now.st_size, now.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
