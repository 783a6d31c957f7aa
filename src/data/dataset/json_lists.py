# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of a large JSON file, element by element: a COCO file with polygons takes many times its size as objects."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...core.errors import DataError
from ...core.files import check_regular
from .problems import other_tool

_TAIL = 1 << 20
"""Bytes at the end of a file in which a list is looked for; also what is worth cutting out of a copy."""
_BOM = b"\xef\xbb\xbf"
_KEY = re.compile(rb'\s*[{,]\s*"((?:[^"\\]|\\.)*)"\s*:\s*')
_REASON = re.compile(r"(?:JSON is malformed: )?(.*?)(?: \(byte (\d+)\))?")
_LENIENT = re.compile(rb'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')
"""Texts, and what Python's JSON takes for numbers and msgspec does not."""
_STRICT = {b"NaN": b'"\xff"', b"Infinity": b"1e999999", b"-Infinity": b"-1e999999"}
"""What stands for them, in as many bytes: a byte that no UTF-8 text has, and numbers that are read as infinite."""
_ESCAPED = re.compile(rb"\\(?:(u[dD][89a-fA-F])|.)")
_ESCAPE = b"\xfe"
"""Stands for the backslash of a surrogate, which need not be one of a pair: file names of old disks have such."""

_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@contextmanager
def no_collection() -> Iterator[None]:
    """Many small objects and no cycles among them: looking for garbage would take a sixth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read_lists(path: str | Path, keys: Sequence[str]) -> list[list[msgspec.Raw]]:
    """The elements of top-level lists, as text: ``loads`` reads one. Other values are passed over.

    Each element takes some 60 bytes beside the text of the file until somebody reads it.

    Args:
        path: a JSON file whose top level is an object.
        keys: of the lists. Every one must be there.

    Raises:
        DataError: missing, not JSON (with the line), or without one of the lists.
    """
    try:
        check_regular(path)
        data = memoryview(Path(path).read_bytes())  # not mapped: one that is cut short meanwhile would end the process
    except OSError as error:
        raise DataError(
            f"{path}: the annotation file cannot be opened ({error.strerror}): check ann_file, "
            "or give a folder of data with --data"
        ) from error
    data = data[len(_BOM) :] if data[: len(_BOM)] == _BOM else data
    try:
        lists = _lists(data, keys)
    except (msgspec.DecodeError, RecursionError) as error:
        line, reason = _reason(data, error)
        text = f"{path}:{line}: not a JSON file ({reason}): ann_file must be COCO detection JSON"
        raise DataError(text) from error
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error}): ann_file must be COCO detection JSON") from error
    missing = [key for key in keys if key not in lists]
    if missing:
        tool = other_tool(Path(path))
        hint = f"; it is {tool}" if tool else ""
        raise DataError(f"{path}: not COCO detection JSON: no list called {', '.join(missing)} at the top level{hint}")
    return [lists[key] for key in keys]


def read_list(path: str | Path, key: str) -> list[Any]:
    """One top-level list of a JSON file; quickly where it is the last value, as categories are in COCO files.

    Raises:
        DataError: missing, not JSON, without the list, or an element with a key twice.
    """
    last = _last_value(Path(path), key)
    return last if isinstance(last, list) else load_all(read_lists(path, [key])[0], key, path)


def loads(text: bytes | msgspec.Raw) -> Any:
    """One element of a list.

    Raises:
        ValueError: a key twice in one object; a whole number of thousands of digits; a text that is no UTF-8.
    """
    original = bytes(text).replace(_ESCAPE, b"\\").replace(_STRICT[b"NaN"], b"NaN")
    return json.loads(original.decode(), object_pairs_hook=unique_keys)


def load_all(elements: Sequence[msgspec.Raw], key: str, path: str | Path, first: int = 0) -> list[Any]:
    """Elements of a list, of which the first is number ``first``.

    Raises:
        DataError: says which of them cannot be read, and why.
    """
    loaded: list[Any] = []
    try:
        for element in elements:
            loaded.append(loads(element))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{path}: {key}[{first + len(loaded)}]: {reason}") from error
    return loaded


def check_keys(elements: Sequence[msgspec.Raw], key: str, path: str | Path, first: int) -> None:
    """See that no object has a key twice: readers take the last value, and a person may have meant the first.

    A key brings a quotation mark and a colon. Where there are no more of them than keys that were decoded, none was
    lost; else texts hold them too, or objects lie in objects, and the element is read again.

    Raises:
        DataError: names the element and the key.
    """
    for number, element in enumerate(elements, first):
        text = bytes(element)
        if text.count(b'":') != (len(_keys(text)) if text[:1] == b"{" else 0):
            load_all([element], key, path, number)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of a decoder that refuses an object with a key twice.

    Raises:
        ValueError: says which key.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {doubled!r} occurs twice in one object: remove one of them")
    return content


def _lists(data: memoryview, keys: Sequence[str]) -> dict[str, list[msgspec.Raw]]:
    """The wanted values of the top-level object that are lists."""
    fields = [(key, list[msgspec.Raw] | msgspec.UnsetType, msgspec.UNSET) for key in keys]
    decoder = msgspec.json.Decoder(msgspec.defstruct("File", fields))
    try:
        file = decoder.decode(data)
    except msgspec.ValidationError:  # no object, or something else than a list under one of the keys
        try:
            values = _keys(data)
        except msgspec.ValidationError:
            return {}
        lists = [key for key in keys if bytes(values.get(key, b""))[:1] == b"["]
        return _lists(data, lists) if 0 < len(lists) < len(keys) else {}
    except msgspec.DecodeError as error:
        position = _position(data, error)
        if not re.search(rb"NaN|Infinity|\\u[dD]", data[max(position - 12, 0) : position + 12]):
            raise
        file = decoder.decode(data := memoryview(_strict(data)))
    present = {key: value for key in keys if isinstance(value := getattr(file, key), list)}
    _check_top_level(data, present)
    return present


def _strict(data: memoryview) -> bytes:
    """The same text, byte by byte in its place, in a form that msgspec reads; ``loads`` takes it back."""

    def replaced(match: re.Match[bytes]) -> bytes:
        text = match[0]
        if text[:1] != b'"':
            return _STRICT[text]
        return _ESCAPED.sub(lambda escaped: _ESCAPE + escaped[1] if escaped[1] else escaped[0], text)

    return _LENIENT.sub(replaced, data)


def _check_top_level(data: memoryview, lists: dict[str, list[msgspec.Raw]]) -> None:
    """See that no key of the file itself occurs twice: then there is a value between two others that was passed over.

    Raises:
        ValueError: says which.
    """
    spans = [(_span(data, value[0])[0], _span(data, value[-1])[1]) for value in lists.values() if value]
    position, parts = 0, []
    for start, end in sorted(span for span in spans if span[1] - span[0] > _TAIL):
        parts.append(data[position:start])
        position = end
    rest = b"".join([*parts, data[position:]]) if parts else data  # without the elements, which are most of the file
    position = 0
    for start, end in (_span(rest, value) for value in _keys(rest).values()):
        if not _KEY.fullmatch(rest, position, start):
            key = _KEY.match(rest, position)
            name = key[1].decode(errors="replace") if key else ""
            raise ValueError(f"the key {name!r} occurs twice")
        position = end


def _span(data: bytes | memoryview, part: msgspec.Raw) -> tuple[int, int]:
    """Where in the text a part of it begins and ends."""
    inside, whole = (np.frombuffer(buffer, np.uint8) for buffer in (part, data))
    start = int(inside.__array_interface__["data"][0] - whole.__array_interface__["data"][0])
    return start, start + len(inside)


def _position(data: memoryview, error: Exception) -> int:
    match = _REASON.fullmatch(str(error))
    return int(match[2]) if match and match[2] else len(data)


def _reason(data: memoryview, error: Exception) -> tuple[int, str]:
    """The line where a text is no JSON, and what is wrong there."""
    if isinstance(error, RecursionError):
        return 1, "nested too deeply"
    position = _position(data, error)
    line = 1 + int(np.count_nonzero(np.frombuffer(data[:position], np.uint8) == ord("\n")))
    if "truncated" in str(error):
        return line, f"it ends at byte {position}, at the end of the file: it is cut off, or was not written completely"
    try:
        bytes(data[position : position + 4]).decode()
    except UnicodeDecodeError as wrong:
        if not wrong.start:
            return line, f"{wrong}, byte {position} of the file: it must be UTF-8"
    match = _REASON.fullmatch(str(error))
    return line, f"{match[1] if match else error}, byte {position}"


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
        return None  # the whole file is read, and the mistake is named
    # One brace only: after a value inside another object there would be two.
    return value if text[end:].strip() == "}" else None
