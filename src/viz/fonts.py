# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A font for names in any script, the first that has all their letters; and texts that fit."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def legible(text: str, instead: str | None = None) -> str:
    """The text on one line, in letters that some font on this machine has.

    Args:
        text: a class name or a file name.
        instead: what stands for a text that no font can write; None for "?" in place of each missing letter.
    """
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    if face_of(line) is not None:
        return line
    _warn_once()
    if instead is not None:
        return instead
    known = _letters(_own_face()) if _has_matplotlib() else frozenset()
    return "".join(letter if letter.isascii() or letter in known else "?" for letter in line)


def legible_name(name: str, label: int) -> str:
    """A class name for a picture: the class's number where no font has its letters."""
    return legible(name, f"class {label}")


def font_for(text: str, size_px: int) -> Font:
    """A font that has the letters of a text, see ``legible``."""
    return _opened(face_of(text) or "", size_px)


def family_for(text: str) -> str:
    """The same for matplotlib: the name of a font family, which it knows afterwards."""
    return _family(face_of(text) or _own_face())


def shortened(text: str, width: float, font: Font) -> str:
    """The text, cut as little as makes it at most ``width`` pixels wide; one mark of omission at least."""
    lengths = range(len(text), 1, -1)
    return next((short for most in lengths if font.getlength(short := cut(text, most)) <= width), "…")


def cut(text: str, most: int) -> str:
    """At most that many letters, at least 2: the middle is left out, since names differ at both ends."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


@cache
def face_of(text: str) -> str | None:
    """File of the first font with all letters of the text; None for none.

    "" is Pillow's own, which is enough for ASCII; next comes the font that matplotlib brings (Latin, Cyrillic, Greek),
    then what is installed, which matplotlib finds.
    """
    letters = text.replace("…", "")  # every font has it
    if letters.isascii():
        return ""
    if not _has_matplotlib():
        return None
    return next((path for path in _faces() if _letters(path).issuperset(letters)), None)


@cache
def _has_matplotlib() -> bool:
    return find_spec("matplotlib") is not None


def _faces() -> Iterator[str]:
    yield _own_face()
    yield from _installed()


def _own_face() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@cache
def _installed() -> tuple[str, ...]:
    """Font files of this machine, upright and of normal weight first."""
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(findSystemFonts(), key=lambda path: ("Regular" not in Path(path).stem, path)))


@cache
def _letters(path: str) -> frozenset[str]:
    """Characters of a font that can be drawn in any size; none of a file that is no such font."""
    from matplotlib.ft2font import FT2Font

    with contextlib.suppress(RuntimeError, OSError):
        face = FT2Font(path)
        if face.scalable:
            return frozenset(map(chr, face.get_charmap()))
    return frozenset()


@cache
def _opened(path: str, size_px: int) -> Font:
    return ImageFont.truetype(path, size_px) if path else ImageFont.load_default(size_px)


@cache
def _family(path: str) -> str:
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    fontManager.addfont(path)  # its own list may be older than the font
    return str(FT2Font(path).family_name)


@cache
def _warn_once() -> None:
    logger.warning(
        "no installed font has the letters of some class or file names: pictures show class numbers and question marks "
        "instead; %s",
        "install a font that has them (Debian, Ubuntu: apt install fonts-noto-core fonts-noto-cjk)"
        if _has_matplotlib()
        else 'fonts beyond ASCII come with matplotlib: pip install "isdfine[plots]"',
    )
