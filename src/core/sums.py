# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Sums that give a damaged file away: those inside torch's zip files, and the one that we write into other files.

A file of ours that is no zip carries its CRC-32 in its own metadata, under the key ``isdfine_crc32``: eight hexadecimal
digits, reckoned over the whole file with zeros in their place. So a file can be checked from its bytes alone.
"""

from __future__ import annotations

import logging
import re
import struct
import zipfile
import zlib
from mmap import ACCESS_READ, mmap
from pathlib import Path

from .errors import CheckpointError

logger = logging.getLogger(__name__)

SUM_KEY = "isdfine_crc32"
NO_SUM = "0" * 8
"""Stands for the sum until :func:`write_with_sum` writes the file."""
# As JSON (safetensors) and as protobuf (ONNX) write the key and a text of eight bytes.
_ENTRY = re.compile(SUM_KEY.encode() + rb'(?:":"|\x12\x08)(.{8})', re.DOTALL)
_METADATA_BYTES = 1 << 22
"""Metadata stand at the beginning (safetensors) or at the end (ONNX) of a file, and are smaller than this."""
# What zipfile raises for a file in which single bits were turned, measured.
_ZIP_ERRORS = (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, NotImplementedError, struct.error)


def check_zip(path: Path) -> None:
    """Compare every record of a checkpoint with its CRC-32, which torch writes and does not check (0.1 s per 100 MB).

    Raises:
        CheckpointError: the file is damaged.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as start:
        if start.read(4) != b"PK\x03\x04":
            _say_unchecked(path, "it is in torch's format before 1.6, which holds no sums")
            return
    try:
        with zipfile.ZipFile(path) as file:
            if not any(record.CRC for record in file.infolist()):
                _say_unchecked(path, "it was written without sums")
                return
            damaged = file.testzip()
    except _ZIP_ERRORS as error:
        raise CheckpointError(damage(path, str(error) or type(error).__name__)) from None
    if damaged is not None:
        raise CheckpointError(damage(path, f"{damaged} is not what was written"))


def check_sum(path: Path) -> None:
    """Compare a safetensors or ONNX file of ours with the sum that it carries.

    Raises:
        CheckpointError: the file is damaged, or another program changed it.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        if not path.stat().st_size:
            return  # empty: whoever reads it says so
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            found = _entry(content)
            if found is None:
                _say_unchecked(path, "it holds no sum")
                return
            stated, span = found[1], found.span(1)
            with memoryview(content) as view:
                intact = stated == _sum_without(view, *span)
    if not intact:
        raise CheckpointError(
            damage(path, "its CRC-32 is not the one it carries") + "; where another program changed it on purpose, "
            f"remove the entry {SUM_KEY} from its metadata"
        )


def write_with_sum(path: Path, content: bytes) -> None:
    """Write a file whose metadata hold ``SUM_KEY: NO_SUM``, with its sum in that place."""
    found = _entry(content)
    assert found is not None, "content whose metadata lack the place of the sum"
    start, end = found.span(1)
    with memoryview(content) as view:
        path.write_bytes(b"".join((view[:start], _sum_without(view, start, end), view[end:])))


def damage(path: Path, reason: str) -> str:
    """Message for a damaged file."""
    return (
        f"{path} ({path.stat().st_size} bytes) cannot be read: it is truncated or damaged ({reason}): copy or download "
        "it again, or take another one"
    )


def _entry(content: bytes | mmap) -> re.Match[bytes] | None:
    return _ENTRY.search(content, 0, _METADATA_BYTES) or _ENTRY.search(content, max(0, len(content) - _METADATA_BYTES))


def _sum_without(content: memoryview, start: int, end: int) -> bytes:
    """Eight hexadecimal digits, reckoned with zeros between ``start`` and ``end``."""
    return b"%08x" % zlib.crc32(content[end:], zlib.crc32(NO_SUM.encode(), zlib.crc32(content[:start])))


def _say_unchecked(path: Path, reason: str) -> None:
    logger.info("%s: whether the file is damaged cannot be checked, because %s", path, reason)
