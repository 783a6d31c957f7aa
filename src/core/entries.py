# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of what takes long to make and can be made again, shared by runs and bounded in size."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .files import whole_file

logger = logging.getLogger(__name__)

DIGEST_BYTES = 24
"""Of the digests by which entries are called."""
_HEADER = struct.Struct("<8sQ32s")
_OWN_NAME = re.compile(r"[0-9a-f]{46}(\.\d+\.\d+(\.tmp)?)?")
"""An entry, or an unfinished one with the process and thread that write it."""
_SHARE = 8
"""A process writes up to 1 / _SHARE of the room it found, then looks again what others have written."""
_ABANDONED = 3600
"""Seconds after which an unfinished file is nobody's any more."""


def blake2b(content: bytes) -> bytes:
    """A checksum of 32 bytes."""
    return hashlib.blake2b(content, digest_size=32).digest()


class Entries:
    """Entries of a cache by digest, one file each: its content behind its length and checksum.

    Runs may read and write at the same time. An entry appears whole or not at all; what does not agree with its
    checksum counts as missing. Where the folder is full or cannot be written, nothing is added any more, after one
    warning of each process. Entries may be deleted at any time.

    Args:
        folder: made where it is missing; its entries count, wherever below it they lie, and nothing else there is
            touched.
        max_bytes: of the entries, at which nothing is added any more.
        what: how messages call it.
        when_full: what that means, and what to do, for a message.
        magic: 8 bytes that begin an entry: the format of contents.
        within: folder below ``folder`` in which the entries of this object lie.
        checksum: of a content, 32 bytes at most.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        *,
        what: str,
        when_full: str,
        magic: bytes,
        within: str = "",
        checksum: Callable[[bytes], bytes] = blake2b,
    ) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.what, self.when_full = what, when_full
        self._magic, self._within, self._checksum = magic, within, checksum
        self._room: int | None = None
        """Bytes that this process may write before it looks again; None: not looked yet, 0: full or not writable."""
        self._damaged: set[Path] = set()
        """Entries that were reported."""

    def path(self, digest: str) -> Path:
        """Where the entry lies."""
        return self.folder / self._within / digest[:2] / digest[2:]

    def read(self, digest: str) -> bytes | None:
        """The content, if there is a whole one."""
        entry = self.path(digest)
        try:
            file = entry.read_bytes()
        except OSError:
            return None
        content = file[_HEADER.size :]
        if file[: _HEADER.size] == self._header(content):
            return content
        if entry not in self._damaged:
            self._damaged.add(entry)
            logger.warning("%s: this entry of the %s is damaged (%d bytes): made anew", entry, self.what, len(file))
        return None

    def write(self, digest: str, content: bytes) -> None:
        """Add an entry, if there is room; of two processes that make the same one the later wins."""
        if not self._has_room():
            return
        entry = self.path(digest)
        own = entry.with_name(f"{entry.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with whole_file(own, durable=False) as partial:
                partial.write_bytes(self._header(content) + content)
            os.replace(own, entry)
        except OSError as error:
            self._room = 0
            logger.warning(
                "%s: the %s cannot be written (%s): going on more slowly, without new entries; free space "
                "there, or choose another folder", self.folder, self.what, error.strerror,
            )  # fmt: skip
        else:
            room = (self._room or 0) - len(content)
            self._room = room if room > 0 else None

    def _header(self, content: bytes) -> bytes:
        return _HEADER.pack(self._magic, len(content), self._checksum(content))

    def _has_room(self) -> bool:
        if self._room is None:
            self._room = max(0, (self.max_bytes - self._used()) // _SHARE)
            if self._room == 0:
                logger.warning(
                    "%s: the %s is full (%.1f GB): %s", self.folder, self.what, self.max_bytes / 1e9, self.when_full
                )
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
