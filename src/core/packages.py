# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Optional packages, imported where they are used and named where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .errors import ConfigError


def require(name: str, purpose: str, install: str | None = None) -> Any:
    """Import a package or one of its modules.

    Args:
        name: dotted name of the module.
        purpose: what needs it, for the message.
        install: what pip installs, with remarks; the package's own name by default.

    Raises:
        ConfigError: it is missing, with the command that installs it; or it is there and fails to import, with why.
    """
    package = name.split(".")[0]
    try:
        return import_module(name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package:
            raise ConfigError(f"{purpose} needs the package {package}: pip install {install or package}") from None
        raise ConfigError(
            f"{purpose} needs the package {package}, which is installed and fails to import ({error}): repair that"
        ) from error
