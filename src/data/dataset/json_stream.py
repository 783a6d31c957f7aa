# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Read large JSON files piece by piece: a COCO file with polygons takes many times its size as Python objects."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from ...core.errors import DataError
from ...core.files import check_regular
from .other_tools import other_tool

_CHUNK = 1 << 23
_BATCH = 20_000
_TAIL = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
_NEXT_OBJECT = re.compile(r"\},[ \t\n\r]*\{")

Receiver = Callable[[list[Any], int], None]
"""Takes a batch of elements of a list, and the position of the first one in it."""


def read_lists(
    path: str | Path, receivers: Mapping[str, Receiver], *, skip: str | None = None, whole: bool = True
) -> None:
    """Hand the elements of top-level lists to their receivers, batch by batch; other values are passed over.

    Args:
        path: a JSON file whose top level is an object.
        receivers: by key. Every key must be in the file and hold a list.
        skip: a key whose value nobody needs, whatever object it is in: lists of numbers there are not parsed (polygons
            are most of a COCO file, and parsing them most of the time), and receivers get 0 in their place.
        whole: read to the end, so that all of the file is seen to be JSON; False: stop behind the last list wanted.

    Raises:
        DataError: missing, not JSON, an element with a key twice (both with the line), or without one of the lists.
    """
    collecting = gc.isenabled()
    gc.disable()  # many small objects and no garbage cycles among them: collecting would double the time
    try:
        check_regular(path)
        with open(path, encoding="utf-8-sig", newline="") as file:
            found = _Reader(file, skip).lists(receivers, whole)
    except _Broken as error:
        if skip:  # look again at the whole text, where the line is right
            read_lists(path, dict.fromkeys(receivers, _ignore), whole=whole)
        reason = f"not a JSON file ({error}): ann_file must be COCO detection JSON"
        raise DataError(f"{path}:{error.line}: {error if isinstance(error, _Doubled) else reason}") from error
    except OSError as error:
        raise DataError(f"{path}: the annotation file cannot be opened ({error.strerror}): check ann_file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a JSON file ({error}): ann_file must be COCO detection JSON") from error
    finally:
        if collecting:
            gc.enable()
    missing = [key for key in receivers if key not in found]
    if missing:
        tool = other_tool(Path(path))
        hint = f"; it is {tool}" if tool else ""
        raise DataError(f"{path}: not COCO detection JSON: no list called {', '.join(missing)} at the top level{hint}")


def read_list(path: str | Path, key: str) -> list[Any]:
    """One top-level list of a JSON file; quickly where it is the last value, as categories are in COCO files, or early.

    Raises:
        DataError: missing, not JSON, or without the list.
    """
    last = _last_value(Path(path), key)
    if isinstance(last, list):
        return last
    items: list[Any] = []
    read_lists(path, {key: lambda batch, _: items.extend(batch)}, skip="segmentation", whole=False)
    return items


def _last_value(path: Path, key: str) -> Any:
    """The value of ``key`` where nothing but the closing brace of the file follows it; else None."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None  # the caller opens the file again and reports it
    matches = list(re.finditer(rf'[{{,]\s*"{re.escape(key)}"\s*:\s*', text))
    if not matches:
        return None
    try:
        value, end = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode(text, matches[-1].end())
    except ValueError:
        return None  # the whole file is read, and the line of the mistake is found
    # One brace only: after a value inside another object there would be two.
    return value if text[end:].strip() == "}" else None


def _ignore(batch: list[Any], first: int) -> None:
    """A receiver that needs nothing."""


class _Broken(Exception):
    """The text is not JSON."""

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


class _Doubled(_Broken):
    """An object has a key twice: JSON allows it, readers take the last value, and a person may have meant the first."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of a decoder that refuses an object with a key twice.

    Raises:
        ValueError: says which key.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {doubled!r} occurs twice in one object: remove one of them")
    return found


def _count_keys(values: list[Any], inside: tuple[type, ...]) -> int:
    """Keys of all objects among the values and inside them, as far as they lie in containers of these types."""
    keys = 0
    while values:
        objects = [one for one in values if type(one) is dict]
        keys += sum(map(len, objects))
        held = chain.from_iterable(map(dict.values, objects))
        listed = chain.from_iterable(one for one in values if type(one) is list)
        values = [one for one in chain(held, listed) if type(one) in inside]
    return keys


class _Reader:
    """A window of text that moves over the file."""

    def __init__(self, file: Any, skip: str | None) -> None:
        self.file = file
        # The quotation mark or brace behind it shows that the list ends there and not in the part still to be read.
        pattern = rf'"{re.escape(skip)}"\s*:\s*\[[^"{{}}]*\](?=\s*(?:,\s*"|\}}))' if skip else "(?!)"
        self.skipped, self.instead = re.compile(pattern), f'"{skip}":0'
        self.text = ""
        self.position = 0
        self.start = 0
        """Where in the window the elements begin that were decoded last."""
        self.untried: int | None = None
        """End of the part of the window in which ``objects`` may look; None: all of it."""
        self.ended = False
        self.lines, self.characters = 0, 0  # before the window
        self.decode = json.JSONDecoder().raw_decode

    def lists(self, receivers: Mapping[str, Receiver], whole: bool) -> set[str]:
        """Walk over the top-level object, or as far as needed; returns the receivers' keys that hold lists."""
        found: set[str] = set()
        if self.peek() != "{":
            self.value()  # broken JSON is reported as such
            return found
        self.position += 1
        first = True
        while self.next_item("}", first):
            first = False
            key = self.value() if self.peek() == '"' else self.fail("Expecting property name enclosed in double quotes")
            if self.peek() != ":":
                self.fail("Expecting ':' delimiter")
            self.position += 1
            if key in found:
                self.fail(f"the key {key!r} occurs twice")
            if self.peek() != "[":
                self.value()
                continue
            self.elements(receivers.get(key, _ignore), key in receivers)  # piece by piece, also where nobody wants it
            found |= {key} & receivers.keys()
            if not whole and len(found) == len(receivers):
                return found
        if self.peek():
            self.fail("Extra data")
        return found

    def elements(self, receive: Receiver, wanted: bool) -> None:
        """The elements of the list that begins here; those that are wanted may have no key twice."""
        self.position += 1
        batch: list[Any] = []
        count = 0
        while self.next_item("]", not count):
            found = self.objects() or [self.value()]
            if wanted:
                self.check_keys(found)
            batch += found
            count += len(found)
            while len(batch) >= _BATCH:
                receive(batch[:_BATCH], count - len(batch))
                batch = batch[_BATCH:]
        receive(batch, count - len(batch))

    def objects(self) -> list[Any]:
        """The elements from here to the last object that ends in the window: one call for all takes half the time.

        The place to cut is a guess. Only where it is right the brackets match; else there are none, and ``value`` reads
        one element after the other, until the window moves.
        """
        cut = self.text.rfind("},", self.position, self.untried)
        while cut > 0 and not _NEXT_OBJECT.match(self.text, cut):
            cut = self.text.rfind("},", self.position, cut)
        if cut < 0:
            return []
        try:
            found: list[Any]
            found, end = self.decode(f"[{self.text[self.position : cut + 1]}]")
        except (ValueError, RecursionError):  # whoever reads the element says what is wrong
            self.untried = self.position  # one wrong guess in a window is enough
            return []
        self.start = self.position
        self.position = min(cut + 1, self.position + end - 2)  # or at the end of the list, where that comes before
        return found

    def check_keys(self, elements: list[Any]) -> None:
        """See that no object of what was just decoded has a key twice.

        A key brings a colon. Where there are no more colons than keys that were decoded, none was lost: that takes a
        hundredth of the time of decoding. Else texts hold colons too, or objects lie in objects.
        """
        keys = sum(len(one) for one in elements if type(one) is dict)
        if self.text.count(":", self.start, self.position) == keys:  # of one sign, in half the time of two
            return
        signs = self.text.count('":', self.start, self.position)
        if signs == keys or any(signs == _count_keys(elements, inside) for inside in ((dict,), (dict, list))):
            return
        decode, place = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode, self.start
        for _ in elements:
            while self.text[place] in ", \t\n\r":
                place += 1
            try:
                _, place = decode(self.text, place)
            except ValueError as error:
                raise _Doubled(str(error), self.lines + self.text.count("\n", 0, place) + 1) from error

    def next_item(self, closing: str, first: bool) -> bool:
        """Step over the comma, or over the end of the list or object."""
        sign = self.peek()
        if sign == closing:
            self.position += 1
            return False
        if first:
            return True
        if sign != ",":
            self.fail("Expecting ',' delimiter")
        self.position += 1
        return True

    def peek(self) -> str:
        """The next sign that is no space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if self.ended:
                return ""
            self.more(_CHUNK)

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        wanted = _CHUNK
        while True:
            try:
                value, end = self.decode(self.text, self.position)
            except ValueError as error:  # besides JSONDecodeError: a whole number of thousands of digits
                if self.ended:
                    self.fail(getattr(error, "msg", str(error)), getattr(error, "pos", None))
            except RecursionError:
                self.fail("nested too deeply")
            else:
                if end < len(self.text) or self.ended:  # a number at the end of the window may go on
                    self.start, self.position = self.position, end
                    return value
            self.more(wanted)
            wanted *= 2

    def more(self, size: int) -> None:
        """Drop what was read and append to the window."""
        self.lines += self.text.count("\n", 0, self.position)
        self.characters += self.position
        chunk = self.file.read(size)
        self.ended = not chunk
        self.text = self.skipped.sub(self.instead, self.text[self.position :] + chunk)
        self.position, self.untried = 0, None

    def fail(self, what: str, position: int | None = None) -> Any:
        position = self.position if position is None else position
        line = self.lines + self.text.count("\n", 0, position) + 1
        if self.ended and (not self.text[position:].strip() or what.startswith("Unterminated")):
            what += ", at the end of the file: it is cut off, or was not written completely"
        raise _Broken(f"{what}, character {self.characters + position}", line)
