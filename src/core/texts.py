# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign texts (class names, file names) in terminals and tables."""

from __future__ import annotations

import unicodedata

_BREAKING = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters (line breaks, escapes), halves of a character, line and paragraph ends."""
_FORMULA = ("=", "+", "-", "@")


def one_line(text: str) -> str:
    """The text with a question mark for whatever breaks a line, steers a terminal or cannot be written to a file."""
    if text.isprintable():
        return text
    return "".join("?" if unicodedata.category(one) in _BREAKING else one for one in text)


def cell(text: str) -> str:
    """A text for a CSV file: spreadsheets take what begins like a formula for one, unless an apostrophe comes first."""
    return f"'{text}" if text.startswith(_FORMULA) else text
