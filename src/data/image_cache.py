# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Large images at a useful size on disk, so that they are decoded in full once only."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ..core.errors import ConfigError
from ..core.files import whole_file
from ..core.registry import register

logger = logging.getLogger(__name__)

WORTH = 0.6
"""Largest side of a cached image over the original's at which keeping it is worth the disk."""
_HEADER = struct.Struct("<8sQ32s")
_MAGIC = b"ISDFIMG1"
_MADE_AS = struct.Struct("<IIII?")
_OWN_NAME = re.compile(r"[0-9a-f]{46}(\.\d+\.\d+(\.tmp)?)?")
"""An entry, or an unfinished one with the process and thread that write it."""
_SHARE = 8
"""A process writes up to 1 / _SHARE of the room it found, then looks again what others have written."""
_ABANDONED = 3600
"""Seconds after which an unfinished file is nobody's any more."""


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
        self.max_bytes = int(max_gigabytes * 1e9)
        self.quality = quality
        self._room: int | None = None
        """Bytes that this process may write before it looks again; None: not looked yet, 0: full or not writable."""
        self._damaged: set[Path] = set()
        """Entries that were reported."""

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
        digest = hashlib.blake2b(content, digest_size=24)
        digest.update(made_as)
        entry = self.folder / digest.hexdigest()[:2] / digest.hexdigest()[2:]
        jpeg = self._read(entry)
        if jpeg is None:
            buffer = io.BytesIO()
            resized = decode().resize(wanted[::-1], Image.Resampling.BILINEAR)
            resized.save(buffer, "JPEG", quality=self.quality, subsampling=0)
            jpeg = buffer.getvalue()
            if _same_file(before, path) and self._has_room():
                self._write(entry, jpeg)
        image = Image.open(io.BytesIO(jpeg))
        image.load()
        return image

    def _read(self, entry: Path) -> bytes | None:
        """The JPEG, if there is a whole one."""
        try:
            content = entry.read_bytes()
        except OSError:
            return None
        jpeg = content[_HEADER.size :]
        if content[: _HEADER.size] == _header(jpeg):
            return jpeg
        if entry not in self._damaged:
            self._damaged.add(entry)
            logger.warning("%s: this entry of the image cache is damaged (%d bytes): made anew", entry, len(content))
        return None

    def _write(self, entry: Path, jpeg: bytes) -> None:
        """Add an entry whole; of two processes that make the same one the later wins."""
        own = entry.with_name(f"{entry.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with whole_file(own, durable=False) as partial:
                partial.write_bytes(_header(jpeg) + jpeg)
            os.replace(own, entry)
        except OSError as error:
            self._room = 0
            logger.warning(
                "%s: the image cache cannot be written (%s): going on more slowly, without new entries; free space "
                "there, or choose another folder", self.folder, error.strerror,
            )  # fmt: skip
        else:
            room = (self._room or 0) - len(jpeg)
            self._room = room if room > 0 else None

    def _has_room(self) -> bool:
        if self._room is None:
            self._room = max(0, (self.max_bytes - self._used()) // _SHARE)
            if self._room == 0:
                logger.warning(
                    "%s: the image cache is full (%.1f GB): other images are made anew each time; "
                    "raise max_gigabytes, or do without the cache", self.folder, self.max_bytes / 1e9,
                )  # fmt: skip
        return self._room > 0

    def _used(self) -> int:
        """Bytes of the entries; removes what killed runs left unfinished, and touches nothing else in the folder."""
        total, old = 0, time.time() - _ABANDONED
        for parent, _, names in os.walk(self.folder):
            for name in filter(_OWN_NAME.fullmatch, names):
                path = os.path.join(parent, name)
                try:
                    facts = os.stat(path)
                    if "." in name and facts.st_mtime < old:
                        os.unlink(path)
                    else:
                        total += facts.st_size
                except OSError:
                    continue  # another run has just renamed or removed it, or owns it
        return total


def _same_file(before: os.stat_result, path: Path) -> bool:
    """Whether nobody has written to a file since: what was decoded belongs to the content that was read."""
    try:
        now = os.stat(path)
    except OSError:
        return False
    return (now.st_ino, now.st_size, now.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def _header(jpeg: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, len(jpeg), hashlib.blake2b(jpeg, digest_size=32).digest())
