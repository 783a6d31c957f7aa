# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The folder that keeps published weights, and the way from a name to a file in it.

Beside each file stands its record: where it came from, and its SHA-256 as it was then. The sum is compared whenever the
file is used.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import sys
from os import PathLike
from pathlib import Path

from ..core.checkpoint import refuse_url
from ..core.checkpoint.card import file_sha256
from ..core.command import write_json
from ..core.errors import CheckpointError, meant
from ..core.extras import need
from ..core.files import take_lock, why
from .download import download
from .table import HUB, TABLE, Published

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "ISDFINE_CACHE"
OFFLINE_VARIABLES = ("ISDFINE_OFFLINE", "HF_HUB_OFFLINE")
HUB_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
"""What is fetched of a repository of transformers; the last one is the weights."""


def cache_folder() -> Path:
    """Where weights are kept: ``weights`` in ``ISDFINE_CACHE``, else in ``isdfine`` in the user's folder for caches."""
    if own := os.environ.get(FOLDER_VARIABLE):
        return Path(own).expanduser().absolute() / "weights"
    usual = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": "~/Library/Caches"}.get(sys.platform)
    folder = os.environ.get("XDG_CACHE_HOME") or usual or "~/.cache"
    return Path(folder).expanduser().absolute() / "isdfine" / "weights"


def place_of(published: Published) -> Path:
    """The file in the cache, or the folder of transformers; it need not be there yet."""
    return cache_folder() / (published.file or published.name)


def file_of(published: Published) -> Path:
    """The weights' own file."""
    return place_of(published) if published.file else place_of(published) / HUB_FILES[-1]


def located(path: str | PathLike[str]) -> Path:
    """The file or folder that a checkpoint shall be read from: a path is itself, a name of ``TABLE`` is fetched.

    What is on the disk goes before a name. A path that is not there is returned, for whoever reads it to say so.

    Raises:
        CheckpointError: a URL; a word that is neither a path nor a name; weights that cannot be got or are damaged.
    """
    text = str(path)
    if not Path(path).exists():
        if text in TABLE:
            return fetch(TABLE[text])
        refuse_url(path)
        if text == Path(text).name and not Path(text).suffix:
            raise CheckpointError(
                f"{text}: no such file or folder, and no weights of this name{meant(text, TABLE)} isdfine weights "
                "list shows the names"
            )
    return Path(path)


def named(name: str) -> Published:
    """The entry of ``TABLE``.

    Raises:
        CheckpointError: there is none; with the nearest name.
    """
    if name not in TABLE:
        raise CheckpointError(
            f"{name}: no weights of this name{meant(name, TABLE)} isdfine weights list shows the names"
        )
    return TABLE[name]


def published_at(path: Path) -> Published | None:
    """What the table knows about a file or folder of the cache; None for one that is elsewhere."""
    places = {place: entry for entry in TABLE.values() for place in (place_of(entry), file_of(entry))}
    return places.get(path.absolute())


def fetch(published: Published) -> Path:
    """Weights in the cache, downloaded where they are not there, and compared with the sum that is known of them.

    Processes that ask for the same weights at the same time wait for one of them to download.

    Raises:
        CheckpointError: no network or told not to use it, a server without the file, a cache that cannot be written,
            or a file that is not the one it should be (it is removed).
    """
    file = file_of(published)
    if not (file.is_file() and record_of(file).is_file()):
        try:
            _fill(published)
        except OSError as error:
            if not file.is_file():
                raise CheckpointError(
                    f"{published.name}: the cache {cache_folder()} cannot be written ({why(error)}): set "
                    f"{FOLDER_VARIABLE} to a folder that can, or put the file there: {_by_hand(published)}"
                ) from error
            logger.warning(
                "%s: its SHA-256 is not recorded, because the cache cannot be written (%s)", file, why(error)
            )
    _check(published)
    return place_of(published)


def record_of(file: Path) -> Path:
    """Where it is written down what was downloaded."""
    return file.with_name(file.name + ".json")


def _fill(published: Published) -> None:
    """Download and record, one process at a time."""
    file = file_of(published)
    if not file.is_file() and (variable := _offline()) is not None:
        raise CheckpointError(
            f"{published.name} is not in the cache, and {variable} forbids downloads: {_by_hand(published)}"
        )
    place = cache_folder() / f"{published.name}.lock"
    if (lock := take_lock(place)) is None:
        logger.info("%s: waiting for another process, which downloads it", published.name)
        lock = take_lock(place, patience_s=math.inf)
    assert lock is not None, "patience without end"
    with lock:
        if not file.is_file():
            logger.info("downloading %s (%s) to %s", published.url, published.licence, place_of(published))
            if published.file:
                download(published.url, file)
            else:
                _from_hub(published)
        if not record_of(file).is_file():
            _check(published)
            found = _sha256(file, *_state(file))
            write_json(record_of(file), {"name": published.name, "from": published.url, "sha256": found})


def _from_hub(published: Published) -> None:
    hub = need("huggingface_hub", "hub")
    try:
        endpoint = None if published.folder == HUB else published.folder  # a mirror of the user's stays one
        for name in HUB_FILES:
            hub.hf_hub_download(published.repository, name, local_dir=place_of(published), endpoint=endpoint)
    except Exception as error:  # those of its network library are of many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{published.url} cannot be downloaded ({reason}): try again, or {_by_hand(published)}"
        ) from error


def _check(published: Published) -> None:
    """Compare a file of the cache with the sum in the table, else with that of its first download.

    Raises:
        CheckpointError: it is another one. It is removed, so that the next use downloads it anew.
    """
    file = file_of(published)
    expected, place = published.sha256, published.source
    if expected is None and record_of(file).is_file():
        place = str(record_of(file))
        try:
            expected = str(json.loads(record_of(file).read_text("utf-8"))["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{place}: no record of a download ({error}): remove it and {file}") from error
    found = _sha256(file, *_state(file))
    if expected in (None, found):
        return
    try:
        file.unlink()
        removed = "removed"
    except OSError as error:
        removed = f"not to be used, and cannot be removed ({why(error)})"
    raise CheckpointError(
        f"{file} has the SHA-256 {found}, not {expected} ({place}): the file is {removed}; get it anew with isdfine "
        f"weights get {published.name}"
        + ("" if published.sha256 else f", and if its authors changed it, remove {place} before")
    )


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache
def _sha256(file: Path, size: int, modified_ns: int) -> str:
    """Of a file in this state; reckoned once per process."""
    return file_sha256(file)


def _offline() -> str | None:
    """The variable that forbids downloads."""
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").upper() in _TRUE), None)


_TRUE = ("1", "ON", "YES", "TRUE")


def _by_hand(published: Published) -> str:
    if published.file:
        return f"get {published.url} elsewhere and put it at {file_of(published)}"
    return f"get {', '.join(HUB_FILES)} of {published.url} elsewhere and put them into {place_of(published)}"
