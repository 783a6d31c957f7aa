# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The configs that come with the package, and how a config is found by a short name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ..errors import ConfigError

PREFIX = "isdfine:"
_PACKAGE = Path(__file__).parents[2]
SHIPPED = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
"""Folder of the package's own configs: in it where it was installed, beside it in a checkout."""


def find_config(name: str | os.PathLike[str], folder: Path | None = None) -> Path:
    """The file that a config's name stands for.

    Args:
        name: a path; ``isdfine:dfine/dfine_hgnetv2_s_coco.yml``, a file of the package; or what names one where no such
            path exists: the same without ``isdfine:``, also below ``configs/``, or the file's name alone.
        folder: what relative paths are relative to; None = the working folder.

    Returns:
        A path. It is ``name`` itself where nothing was found, for whoever reads it to say so.

    Raises:
        ConfigError: ``isdfine:`` and no such file, or a file name that several files of the package have.

    >>> find_config("isdfine:dfine_hgnetv2_s_coco.yml").relative_to(SHIPPED).as_posix()
    'dfine/dfine_hgnetv2_s_coco.yml'
    """
    text = str(name)
    path = (folder or Path()) / os.path.expanduser(text)
    if not text.startswith(PREFIX) and path.exists():
        return path
    wanted = Path(text.removeprefix(PREFIX).removeprefix("./").removeprefix("configs/"))
    if wanted.is_absolute() or ".." in wanted.parts or not wanted.name:
        return path
    if (SHIPPED / wanted).is_file():
        return SHIPPED / wanted
    files = sorted(SHIPPED.rglob("*.yml"))
    same = [file for file in files if file.name == text.removeprefix(PREFIX)]
    if len(same) > 1:
        names = ", ".join(f"{PREFIX}{file.relative_to(SHIPPED).as_posix()}" for file in same)
        raise ConfigError(f"{text}: several configs have this name: give one of {names}")
    if same:
        return same[0]
    if text.startswith(PREFIX):
        near = nearest_config(wanted)
        meant = f", did you mean {near}?" if near else f": its configs are in {SHIPPED}"
        raise ConfigError(f"{text}: the package has no such config{meant}")
    return path


def nearest_config(path: Path) -> str | None:
    """The package's config whose name is most like that of a path, as ``find_config`` takes it; None: none is like it.

    >>> nearest_config(Path("dfine_hgnetv2_s_coc"))
    'isdfine:dfine_hgnetv2_s_coco.yml'
    """
    near = difflib.get_close_matches(path.stem, {file.stem for file in SHIPPED.rglob("*.yml")}, n=1)
    return f"{PREFIX}{near[0]}.yml" if near else None
