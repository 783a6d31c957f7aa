# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong in an annotation file: raised at once for training, collected for a check."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.errors import DataError

KINDS: dict[str, str] = {
    "broken json": "a file or line that is not JSON, or not of the format that was asked for",
    "broken xml": "an XML file that cannot be parsed, or lacks what an annotation needs",
    "broken line": "a line of a text file that cannot be read (columns, numbers)",
    "bad entry": "an entry without an id, a class, or another field that it must have",
    "bad box": "a box that is no four finite numbers, or has no area inside its image",
    "bad size": "an image without width and height above zero",
    "bad class": "a class list that cannot be used: empty, ids or names twice",
    "unknown category": "an annotation whose class is not in the list of classes",
    "unknown image": "an annotation that belongs to no image",
    "duplicate id": "an id that occurs twice",
    "missing image": "an image that is listed but not there, or an empty folder",
    "missing annotation": "an image whose annotation file is not there",
    "unreadable image": "a file that is no image, or is cut off",
}
"""Every kind that a parser reports, with what it means."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: one of ``KINDS``.
        place: the file, with ``:line`` where there is one.
        text: what is wrong and what to do.
    """

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Problems:
    """Where parsers report what is wrong.

    Args:
        collect: keep a list, so that the parser skips the entry and goes on; else the first report raises.
    """

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.found: list[Problem] = []

    def report(self, kind: str, place: str, text: str) -> None:
        """Note one problem.

        Args:
            kind: one of ``KINDS``.
            place: the file, with ``:line`` where there is one.
            text: what is wrong and what to do.

        Raises:
            DataError: ``{place}: {text}``, unless problems are collected.
            ValueError: ``kind`` is not one of ``KINDS``.
        """
        if kind not in KINDS:
            raise ValueError(f"problem kind {kind!r} is not one of {', '.join(KINDS)}")
        problem = Problem(kind, place, text)
        if not self.collect:
            raise DataError(str(problem))
        self.found.append(problem)
