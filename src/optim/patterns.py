# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A slip in regular expressions over parameter names: alternatives of a look-ahead that test one place only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PUBLISHED = frozenset({"^(?=.*backbone)(?!.*norm|bn).*$", "^(?=.*backbone)(?=.*norm|bn).*$"})
"""Patterns of the official recipes that have the slip: their effect belongs to the published numbers."""
_ANYWHERE = (".*?", ".*", ".+?", ".+")


@dataclass(frozen=True)
class Slip:
    """A look-ahead such as ``(?!.*norm|bn)``: it looks for ``norm`` anywhere behind it, for ``bn`` right behind it."""

    text: str
    """The look-ahead as written."""
    first: str
    """What its first alternative looks for."""
    others: tuple[str, ...]
    """Alternatives that are tested at one place only."""
    corrected_text: str
    """A look-ahead that looks for all of them anywhere."""
    corrected: str
    """The whole pattern with it."""


def find_slips(pattern: str) -> list[Slip]:
    """Look-aheads at the start of a pattern in which a later alternative lacks the ``.*`` that the first one has.

    >>> find_slips("^(?=.*backbone)(?!.*norm|bn).*$")[0].corrected
    '^(?=.*backbone)(?!.*(?:norm|bn)).*$'
    >>> find_slips("^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$")
    []
    """
    slips = []
    for start, end in _leading_lookaheads(pattern):
        text = pattern[start:end]
        parts = _alternatives(text[3:-1])
        wild = next((one for one in _ANYWHERE if parts[0].startswith(one)), None)
        anchored = [part for part in parts if part.startswith(("^", "$"))]
        others = tuple(part for part in parts[1:] if not part.startswith(".") and part not in anchored)
        if wild is None or not others:
            continue
        bare = [part.removeprefix(wild) for part in parts if part not in anchored]
        fixed = f"{text[:3]}{'|'.join([f'{wild}(?:{chr(124).join(bare)})', *anchored])})"
        slips.append(Slip(text, bare[0], others, fixed, pattern[:start] + fixed + pattern[end:]))
    return slips


def _leading_lookaheads(pattern: str) -> Iterator[tuple[int, int]]:
    """Start and end of the look-aheads behind a leading ``^``: only these are tested at one place of the name."""
    start = 1 if pattern.startswith("^") else len(pattern)
    while pattern[start : start + 3] in ("(?=", "(?!"):
        end = _closing(pattern, start) + 1
        yield start, end
        start = end


def _closing(pattern: str, start: int) -> int:
    """Index of the bracket that closes the one at ``start``; the pattern is a valid expression."""
    return next(index for index, depth in _depths(pattern, start) if depth == 0)


def _alternatives(body: str) -> list[str]:
    """``body`` split at the bars outside of brackets."""
    bars = [index for index, depth in _depths(body, 0) if depth == 0 and body[index] == "|"]
    return [body[a + 1 : b] for a, b in zip([-1, *bars], [*bars, len(body)])]


def _depths(pattern: str, start: int) -> Iterator[tuple[int, int]]:
    """Every character that is syntax, neither escaped nor in a set like ``[...]``, and the brackets open behind it."""
    index, depth = start, 0
    while index < len(pattern):
        letter = pattern[index]
        if letter == "\\":
            index += 2
            continue
        if letter == "[":
            index = _end_of_set(pattern, index) + 1
            continue
        depth += {"(": 1, ")": -1}.get(letter, 0)
        yield index, depth
        index += 1


def _end_of_set(pattern: str, start: int) -> int:
    """Index of the ``]`` of the set at ``start``; one directly behind ``[`` or ``[^`` is a letter of the set."""
    index = start + (2 if pattern.startswith("[^", start) else 1) + 1
    while pattern[index] != "]":
        index += 2 if pattern[index] == "\\" else 1
    return index
