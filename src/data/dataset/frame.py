# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the boxes of an annotation file belong to pictures as viewers show them or as they are stored."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ...core.errors import DataError
from .annotations import Annotations
from .images import SIDEWAYS, Header, read_headers
from .problems import Problems

logger = logging.getLogger(__name__)

Upright = Literal["auto"] | bool
"""True: boxes belong to pictures as EXIF turns them and viewers show them; False: as stored; auto: what sizes say."""
REMEDY = "upright: True (boxes as viewers show pictures) or upright: False (as stored) in the dataset section"
_LOOKED_AT = 512
"""Files whose headers are read, evenly over the data set: the same on every rank, and 20 ms."""


@dataclass
class Evidence:
    """Names of images that EXIF turns, by what their annotated size says of them."""

    upright: list[str] = field(default_factory=list)
    """On their side, with the size of the turned picture."""
    stored: list[str] = field(default_factory=list)
    """On their side, with the size of the stored one."""
    unclear: list[str] = field(default_factory=list)
    """Squares, mirrored and upside-down pictures: both sizes are equal."""

    @classmethod
    def of(cls, entries: Iterable[tuple[str, tuple[int, int], Header]]) -> Evidence:
        """Sort entries of name, annotated (height, width) and header; those of another size say nothing."""
        evidence = cls()
        for name, size, header in entries:
            if header.orientation in SIDEWAYS and header.stored != header.upright:
                if size == header.upright:
                    evidence.upright.append(name)
                elif size == header.stored:
                    evidence.stored.append(name)
            elif header.orientation != 1:
                evidence.unclear.append(name)
        return evidence

    @property
    def says_upright(self) -> bool:
        """What holds for the whole file; without evidence True: that is what annotation tools show."""
        return len(self.upright) >= len(self.stored)

    def against(self, upright: bool) -> list[str]:
        """Images that contradict it."""
        return self.stored if upright else self.upright

    @property
    def mixed(self) -> str:
        """Says it where one file holds both; else empty."""
        if not (self.upright and self.stored):
            return ""
        text = (
            f"EXIF turns {self.upright[0]} and {self.stored[0]}: the first has the size of the turned picture "
            f"({len(self.upright)} such), the second that of the stored one ({len(self.stored)})"
        )
        return text + (f", so nobody can tell for {self.unclear[0]}" if self.unclear else "")

    @property
    def missing(self) -> str:
        """Says it where images are unclear and no other helps; else empty."""
        if not self.unclear or self.upright or self.stored:
            return ""
        return (
            f"EXIF turns {self.unclear[0]} ({len(self.unclear)} such), and no size tells whether boxes belong to the "
            "turned or to the stored pictures"
        )


def settled(annotations: Annotations, upright: Upright, problems: Problems | None = None) -> Annotations:
    """Annotations that know to which picture their boxes belong: see ``is_upright``.

    Args:
        problems: one that collects: nothing is said, as a check looks at every file.
    """
    quiet, data = problems is not None and problems.collect, annotations
    chosen = is_upright(Path(data.folder), data.file_names, data.sizes, data.place, upright, quiet=quiet)
    return replace(annotations, upright=chosen)


def is_upright(
    root: Path, names: Sequence[str], sizes: ArrayLike, place: str, upright: Upright, *, quiet: bool = False
) -> bool:
    """Decide for all images of a file, by the annotated sizes of those that lie on their side.

    Args:
        root: what the names are relative to.
        names: of n images.
        sizes: their (n, 2) height, width.
        place: who lists them, for messages.
        upright: as the user says it.
        quiet: nothing is said or raised.

    Raises:
        DataError: sizes of both kinds, and images that could be either.
    """
    step = max(1, -(-len(names) // _LOOKED_AT))
    chosen = range(0, len(names), step)
    headers = read_headers([root / names[index] for index in chosen])
    some = np.asarray(sizes, dtype=np.int64).reshape(-1, 2)[::step].tolist()
    evidence = Evidence.of(
        (names[index], (height, width), header)
        for index, (height, width), header in zip(chosen, some, headers)
        if isinstance(header, Header)
    )
    if not quiet:
        _say(evidence, place, upright)
    return evidence.says_upright if upright == "auto" else upright


def _say(evidence: Evidence, place: str, upright: Upright) -> None:
    if upright != "auto":
        if against := evidence.against(upright):
            logger.warning(
                "%s: upright is %s, but the size of %s (%d such) is that of the %s picture, to which its boxes are "
                "taken to belong", place, upright, against[0], len(against), "stored" if upright else "turned",
            )  # fmt: skip
    elif evidence.mixed and evidence.unclear:
        raise DataError(f"{place}: {evidence.mixed}: say {REMEDY}")
    elif evidence.mixed:
        logger.warning("%s: %s; each is taken as its size says", place, evidence.mixed)
    elif evidence.missing:
        text = "%s: %s; taken as turned, as annotation tools show them: say %s"
        logger.warning(text, place, evidence.missing, REMEDY)
    elif evidence.unclear:
        frame = "turned" if evidence.says_upright else "stored"
        witness = (evidence.upright or evidence.stored)[0]
        text = "%s: EXIF turns pictures; boxes belong to the %s ones, as the size of %s says"
        logger.info(text, place, frame, witness)
