# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Errors a user can meet: what was wrong, where, and what to do; and checks of plain numbers and texts."""

from __future__ import annotations

import difflib
import math
import traceback
import unicodedata
from collections.abc import Iterable


def printable(text: str, *, keep: str = "") -> str:
    """A text for a terminal: line breaks, escape characters and bytes that are no UTF-8 (of file names) as escapes.

    >>> printable("a\\nb\\x1b[2J\\udce9")
    'a\\\\nb\\\\x1b[2J\\\\udce9'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1] for character in text
    )


class ConfigError(ValueError):
    """A YAML file or an override says something the code cannot do."""


class DataError(ValueError):
    """An annotation file, an image or a box cannot be used."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text, keep="\n"))  # a loader's worker sends its whole traceback


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model it is meant for."""


class NonFiniteError(RuntimeError):
    """A loss term or the gradient norm became NaN or infinite."""


class RankError(RuntimeError):
    """Another process of a distributed run is missing, gone or stuck."""


def last_line(error: BaseException, caller: str) -> str:
    """An error of other code as one line, ``FILE:LINE: KIND: text``.

    Args:
        error: as it was caught.
        caller: file that called the other code. The place is the innermost line outside this file and outside Python's
            and installed packages; none where there is no such line.
    """
    passed_over = (caller, "importlib", "<frozen ", "site-packages", "dist-packages")
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename for part in passed_over)
    ]
    place = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}: "
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return f"{place}{type(error).__name__}: {text}"


_BREAKING = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters (line breaks, escapes), halves of a character, line and paragraph ends."""
_FORMULA = ("=", "+", "-", "@")


def meant(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names as a part of a sentence, ``, did you mean X?``; a colon where none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]}?" if near else ":"


def one_line(text: str) -> str:
    """The text with a question mark for whatever breaks a line, steers a terminal or cannot be written to a file."""
    if text.isprintable():
        return text
    return "".join("?" if unicodedata.category(character) in _BREAKING else character for character in text)


def cell(text: str) -> str:
    """A text for a CSV file: spreadsheets take what begins like a formula for one, unless an apostrophe comes first."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a finite number above 0 (ValueError)."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}: give a number above 0")


def check_non_negative(name: str, value: float) -> None:
    """Refuse what is not a finite number of 0 or more (ValueError)."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}: give 0 or more")


def check_share(name: str, value: float) -> None:
    """Refuse what is not in 0..1 (ValueError)."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}: give a number from 0 to 1")


def check_counts(*, most: int = 100_000, **counts: int) -> None:
    """Refuse sizes and numbers of things below 1 or above ``most``, by name (ValueError)."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
        if value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")


def check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    """Refuse an option that is none of the choices (ValueError)."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(map(repr, choices))}")
