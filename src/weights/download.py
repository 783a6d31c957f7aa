# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A file from the net, whole or not at all; the next transfer goes on from what a broken one left."""

from __future__ import annotations

import os
import ssl
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

from ..core.errors import CheckpointError

ATTEMPTS, PAUSE_S, TIMEOUT_S = 3, 1.0, 30.0
"""Transfers that are tried, seconds between two, and seconds without a byte after which one counts as broken."""
_CHUNK = 1 << 20
_NETWORK_ERRORS = (URLError, TimeoutError, ConnectionError, ssl.SSLError, HTTPException)
_RANGE_NOT_SATISFIABLE = 416


def download(url: str, path: Path) -> None:
    """Fetch a file into a folder that is there.

    Raises:
        CheckpointError: the server does not have it, cannot be reached, or stops in the middle.
        OSError: the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_S if attempt else 0)
        try:
            _transfer(url, part)
            os.replace(part, path)
            _mark_of(part).unlink(missing_ok=True)
            return
        except _NETWORK_ERRORS as error:
            code = error.code if isinstance(error, HTTPError) else None
            reason = f"HTTP {code} {error.reason}" if isinstance(error, HTTPError) else _words(error)
            if code == _RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)
            elif code is not None and code < 500:
                break
    kept = f"; {part.stat().st_size:,} bytes are kept in {part}, to go on from" if part.is_file() else ""
    raise CheckpointError(
        f"{url} cannot be downloaded ({reason}){kept}: try again, or get the file elsewhere and put it at {path}"
    )


def _transfer(url: str, part: Path) -> None:
    """Append to ``part`` what is missing, where the server still has the same file; else start over."""
    mark = _mark_of(part)
    start = part.stat().st_size if part.is_file() and mark.is_file() else 0
    headers = {"Range": f"bytes={start}-", "If-Range": mark.read_text("utf-8")} if start else {}
    with urlopen(Request(url, headers={"User-Agent": "isdfine", **headers}), timeout=TIMEOUT_S) as response:
        if response.headers.get_content_type() == "text/html":  # a log-in page or a proxy's, with the code 200
            raise CheckpointError(f"{url}: a web page came in place of the file: open the address in a browser")
        start = start if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        progress = tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None)
        with progress, open(part, "ab" if start else "wb") as file:
            mark.unlink(missing_ok=True)  # now that nothing of another version is left
            if (version := response.headers.get("ETag", "")).startswith('"'):  # a weak one may be of two files
                mark.write_text(version, "utf-8")
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                progress.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"{part.stat().st_size:,} of {total:,} bytes came")


def _mark_of(part: Path) -> Path:
    """Where the server's mark of the file's version is kept (ETag): parts of two versions must not be joined."""
    return part.with_name(part.name + ".etag")


def _words(error: BaseException) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    return str(getattr(reason, "strerror", None) or reason) or type(reason).__name__
