# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""One annotation file of Pascal VOC."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from ...core.files import file_bytes
from .coco_fields import LARGEST, flag, is_rotated, short
from .problems import Problems, other_tool

_ROTATION = "attributes/attribute[name='rotation']"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SHOWN = 100
"""Classes that a message lists before it abbreviates."""
_DIGITS = 18
"""Numbers of that many digits fit into 64 bits."""
_TAGS = ("annotation", "bndbox", "difficult", "height", "name", "object", "size", "width", *_CORNERS)
_ENCODING = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)""")
_START = re.compile(rb"<!--.*?-->|<([^\s/>!?]+)", re.DOTALL)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}
"""Encodings that files name, and those that contain them and that the files are really written in."""


class VocImage(NamedTuple):
    """What the file says about its image, T objects."""

    size: tuple[int, int] | None
    """(height, width); None where the file does not say."""
    boxes_xywh_px: list[list[float]]
    labels: list[int]
    difficult: list[bool]
    rotated: list[int]
    """Numbers, from 1, of the objects that CVAT says are rotated: their boxes are those before the rotation."""


@dataclass(frozen=True)
class VocFile:
    """A parsed file and its text, which is looked at again to say the line of a mistake."""

    path: Path
    data: bytes
    root: ElementTree.Element

    @classmethod
    def open(cls, path: Path, owner: str, problems: Problems) -> VocFile | None:
        """Parse a file.

        Args:
            owner: who wants it, for messages: ``train.txt:3 names it``.

        Returns:
            None where it was reported.
        """
        try:
            data = _utf8(file_bytes(path))
            root = ElementTree.fromstring(data, ElementTree.XMLParser(encoding="utf-8"))
            if root.tag.rpartition("}")[2].lower() == "annotation":
                return cls(path, data, root)
            remedy = other_tool(path) or "no annotation file of Pascal VOC: remove it, or its line in the list"
            problems.report(
                "broken xml", f"{path}:1", f"its first element is <{root.tag}>, not <annotation>: {remedy}", images=1
            )
        except OSError as error:
            text = f"cannot be opened ({error.strerror}), but {owner}: add it or remove the line"
            problems.report("missing annotation", path, text, images=1)
        except ElementTree.ParseError as error:
            line, column = error.position
            near = data.split(b"\n")[line - 1][: column + 1] if line <= data.count(b"\n") + 1 else b""
            remedy = "write & as &amp;" if b"&" in near.rpartition(b">")[2] else "write it again"
            problems.report("broken xml", f"{path}:{line}", f"not a complete XML file ({error}): {remedy}", images=1)
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            text = (
                f"cannot be decoded as {error.encoding} ({error.reason} 0x{error.object[error.start]:02x}): save it as "
                'UTF-8, or name its encoding in its first line: <?xml version="1.0" encoding="GBK"?>'
            )
            problems.report("broken xml", f"{path}:{line}", text, images=1)
        except (ValueError, LookupError) as error:  # a name that no file can have, or an unknown encoding
            problems.report("broken xml", f"{path}:1", f"cannot be decoded ({error}): save it as UTF-8", images=1)
        return None

    def names(self) -> Iterator[str]:
        """Class names of the objects."""
        for element in self.root.findall("object"):
            if name := (element.findtext("name") or "").strip():
                yield name

    def read(self, labels: Mapping[str, int], *, one_based: bool, needs_size: bool, problems: Problems) -> VocImage:
        """Size and objects; labels by class name."""
        size = self._size()
        if size is None and needs_size:
            text = (
                "has no <size> with <width> and <height> above 0: add it, or take sizes from the images with "
                "size_from_image: True; both are whole numbers"
            )
            problems.report("bad size", self._place("size", 0, "annotation"), text, kept=True)
        self._check_tags(problems)
        image = VocImage(size, [], [], [], [])
        known = ", ".join(list(labels)[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")
        objects = self.root.findall("object")
        for number, element in enumerate(objects):
            name = (element.findtext("name") or "").strip()
            box = corner_box(element.find("bndbox"), one_based)
            if not name:
                self._report("bad entry", number, "an object without <name>: give its class", problems)
            elif name not in labels:
                text = f"class {short(name)} is not one of the {len(labels)} classes: {known}"
                self._report("unknown category", number, text, problems)
            elif box is None:
                text = f"object {name!r} needs a <bndbox> with the numbers {', '.join(_CORNERS)}"
                self._report("bad box", number, text, problems)
            else:
                image.boxes_xywh_px.append(box)
                image.labels.append(labels[name])
                if any(is_rotated(turn.findtext("value")) for turn in element.iterfind(_ROTATION)):
                    image.rotated.append(number + 1)
                image.difficult.append(bool(flag(element.findtext("difficult"))))
        if objects and not image.labels:
            problems.losses.add("", emptied=1)
        return image

    def _check_tags(self, problems: Problems) -> None:
        """Objects under other tags, or inside other elements, would be passed over."""
        deeper = sum(1 for _ in self.root.iter("object")) - len(self.root.findall("object"))
        if deeper:
            text = f"{deeper} <object> inside other elements are passed over: put them directly into <annotation>"
            problems.report("bad entry", self._place("object", 0, "annotation"), text, boxes=deeper)
        tags = {
            element.tag for element in self.root.iter() if element is not self.root and isinstance(element.tag, str)
        }
        for tag in sorted(tags - set(_TAGS)):
            plain = tag.rpartition("}")[2].lower()
            if plain in _TAGS:
                text = f"the tag <{tag}> is passed over: write <{plain}>, in small letters and without a namespace"
                lost = sum(1 for _ in self.root.iter(tag)) if plain == "object" else 0
                problems.report("bad entry", self._place(tag, 0, "annotation"), text, boxes=lost)

    def _size(self) -> tuple[int, int] | None:
        sides = []
        for tag in ("height", "width"):
            text = (self.root.findtext(f"size/{tag}") or "").strip()
            sides.append(int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else 0)
        return (sides[0], sides[1]) if min(sides) > 0 else None

    def _report(self, kind: str, number: int, text: str, problems: Problems) -> None:
        problems.report(kind, self._place("object", number, "annotation"), text, boxes=1)

    def _place(self, tag: str, number: int, otherwise: str) -> str:
        """``file:line`` of the ``number``-th element called ``tag``, or of the first one called ``otherwise``."""
        lines = self._lines.get(tag, [])[number : number + 1] or self._lines.get(otherwise, [1])
        return f"{self.path}:{lines[0]}"

    @cached_property
    def _lines(self) -> dict[str, list[int]]:
        """Where elements begin, by their tags, outside of comments."""
        lines: dict[str, list[int]] = {}
        line, seen = 1, 0
        for match in _START.finditer(self.data):
            line, seen = line + self.data.count(b"\n", seen, match.start()), match.start()
            if match[1]:
                lines.setdefault(match[1].decode(), []).append(line)
        return lines


def _utf8(data: bytes) -> bytes:
    """The text of an XML file in UTF-8, from the encoding that its first bytes or its first line say.

    Raises:
        UnicodeDecodeError: it holds other bytes.
        LookupError: an encoding that there is not.
    """
    if data.startswith(_UTF16):
        return data.decode("utf-16").encode()
    declared = _ENCODING.match(data.removeprefix(b"\xef\xbb\xbf").lstrip())
    name = declared[1].decode().lower() if declared else "utf-8"
    if name.startswith(("utf-16", "utf-32", "ucs")):  # cannot be: the declaration itself was read byte by byte
        name = "utf-8"
    data.decode(wider := _WIDER.get(name, name))
    return data if name in ("utf-8", "utf8") else data.decode(wider).encode()


def corner_box(element: ElementTree.Element | None, one_based: bool) -> list[float] | None:
    """x, y, width, height; None where a corner is missing or no finite number."""
    try:
        corners = [float(element.findtext(corner) or "") for corner in _CORNERS] if element is not None else []
    except ValueError:
        return None
    if len(corners) != 4 or not all(abs(corner) <= LARGEST for corner in corners):
        return None
    x0, y0, x1, y1 = corners
    if one_based:  # pixels are counted from 1 and the last one belongs to the box
        x0, y0 = x0 - 1, y0 - 1
    return [x0, y0, x1 - x0, y1 - y0]
