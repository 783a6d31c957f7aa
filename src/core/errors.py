# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Errors a user can meet. Each message says what was wrong, where, and what to do."""

import traceback


def printable(text: str, *, keep: str = "") -> str:
    """A text for a terminal: line breaks, escape characters and bytes that are no UTF-8 (of file names) as escapes.

    >>> printable("a\\nb\\x1b[2J\\udce9")
    'a\\\\nb\\\\x1b[2J\\\\udce9'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else ascii(one)[1:-1] for one in text)


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
    passed_over = (caller, "importlib", "site-packages", "dist-packages")
    own = [
        one
        for one in traceback.extract_tb(error.__traceback__)
        if not any(part in one.filename for part in passed_over)
    ]
    place = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}: "
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return f"{place}{type(error).__name__}: {text}"
