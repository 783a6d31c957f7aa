# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Lines of list files, with their places for messages."""

from __future__ import annotations

from pathlib import Path

from ...core.files import MAX_BYTES, check_regular
from .problems import Problems


def placed_lines(path: Path, *, empty: bool = False) -> list[tuple[str, str]]:
    """(``file:line``, text without spaces around it) of every line.

    Args:
        empty: with lines that hold nothing, which are left out else.

    Raises:
        OSError: missing, not readable, or no regular file.
        UnicodeDecodeError: no text.
    """
    check_regular(path, max_bytes=MAX_BYTES)
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also split at form feeds and others
    return [(f"{path}:{number}", line.strip()) for number, line in enumerate(lines, 1) if empty or line.strip()]


def text_lines(path: Path, problems: Problems, *, empty: bool = False) -> list[tuple[str, str]]:
    """``placed_lines`` of an annotation file, empty where it cannot be read and problems are collected.

    Raises:
        DataError: missing, or no text.
    """
    try:
        return placed_lines(path, empty=empty)
    except OSError as error:
        problems.report("missing annotation", str(path), f"cannot be opened ({error.strerror}): check the path")
    except UnicodeDecodeError as error:
        problems.report("broken line", str(path), f"not a text file ({error}): save it as UTF-8")
    return []


def class_names(path: Path, problems: Problems) -> list[str]:
    """One class name per line."""
    return [line for _, line in text_lines(path, problems)]
