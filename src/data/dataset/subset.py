# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Part of a data set: a fraction, or images by name."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ConfigError, DataError
from .text_lines import placed_lines

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subset:
    """Which images of a data set are used.

    Args:
        chosen: a fraction in (0, 1]; a text file with one image per line; or a list of images; None = all. An image is
            given by its file name; or by its id, base name or stem, where that is one image only.
        seed: of a fraction's draw. With one seed a smaller fraction is part of every larger one, and which images are
            drawn depends on their names alone (with their folder, where a format gives absolute names), not on their
            order or on the machine.

    Raises:
        ConfigError: a fraction outside (0, 1].
    """

    chosen: float | str | Sequence[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.chosen, (int, float)) and not 0 < self.chosen <= 1:
            raise ConfigError(f"subset is {self.chosen}: give a fraction above 0 and at most 1, a list, or a text file")

    def indices(self, file_names: Sequence[str], image_ids: Sequence[int] | None, place: str) -> NDArray[np.int64]:
        """Positions of the chosen images, ascending.

        Args:
            file_names: of n images.
            image_ids: theirs; None where the format has none.
            place: who lists them, for messages.

        Raises:
            DataError: the text file cannot be read, or names no image or several.
        """
        if self.chosen is None:
            return np.arange(len(file_names))
        if isinstance(self.chosen, (int, float)):
            indices = self._drawn(file_names)
        elif isinstance(self.chosen, str):
            indices = _named(_lines(Path(self.chosen)), file_names, image_ids, place)
        else:
            named = [(f"subset, entry {number}", str(one)) for number, one in enumerate(self.chosen, 1)]
            indices = _named(named, file_names, image_ids, place)
        logger.info("%s: %d of %d images (subset)", place, len(indices), len(file_names))
        return np.unique(indices)

    def _drawn(self, file_names: Sequence[str]) -> NDArray[np.int64]:
        key = self.seed.to_bytes(8, "little", signed=True)
        draws = [hashlib.blake2b(os.fsencode(name), digest_size=8, key=key).digest() for name in file_names]
        count = max(1, round(float(self.chosen) * len(draws))) if draws else 0  # type: ignore[arg-type]
        return np.array(sorted(range(len(draws)), key=draws.__getitem__)[:count], dtype=np.int64)


def _lines(path: Path) -> list[tuple[str, str]]:
    try:
        return placed_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list of a subset cannot be read ({error}): check subset") from error


def _named(
    wanted: Sequence[tuple[str, str]], file_names: Sequence[str], image_ids: Sequence[int] | None, place: str
) -> NDArray[np.int64]:
    """Positions of the images that (where it stands, name) pairs mean."""
    bases = [os.path.basename(name) for name in file_names]
    whole = _positions(file_names)
    ways = [
        _positions([] if image_ids is None else [str(one) for one in image_ids]),
        _positions(bases),
        _positions([os.path.splitext(name)[0] for name in bases]),
    ]
    indices = []
    for origin, name in wanted:
        found = whole.get(name) or sorted({index for way in ways for index in way.get(name, [])})
        if not found:
            raise DataError(
                f"{origin}: {place} has no image {name!r}: give file names as the annotations do, ids, or base names"
            )
        if len({file_names[one] for one in found}) > 1:
            both = ", ".join(file_names[one] for one in found[:3])
            raise DataError(f"{origin}: {name!r} may be any of {both}: give the whole file name")
        indices += found
    if not indices:
        raise DataError(f"{place}: subset is an empty list: give images, or leave subset out")
    return np.array(indices, dtype=np.int64)


def _positions(names: Sequence[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        positions.setdefault(name, []).append(index)
    return positions
