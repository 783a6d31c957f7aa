# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Packages that only some jobs need: imported where they are used, named with the command that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from .errors import ConfigError


def need(module: str, extra: str | None = None, *, install: str = "") -> ModuleType:
    """Import a package, or one of its modules, that the plain installation does without.

    Args:
        module: dotted name.
        extra: section of requirements.txt that has the package.
        install: what pip installs instead, with remarks; for packages that are in no extra.

    Raises:
        ConfigError: it is missing, with the command that installs it; or it is there and fails to import, with why.

    >>> need("os.path", "export").join("a", "b")
    'a/b'
    """
    package = module.split(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package:
            wanted = f'"isdfine[{extra}]"' if extra else install or package
            raise ConfigError(f"{package} is not installed: pip install {wanted}") from None
        raise ConfigError(f"{package} is installed and fails to import ({error}): repair that") from error
