# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The packages that export needs, imported where they are used and named where they are missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ...core.errors import ConfigError


def require(*names: str) -> list[ModuleType]:
    """Import packages by name.

    Raises:
        ConfigError: one is missing or cannot be loaded, with the command that installs it.
    """
    found = []
    for name in names:
        try:
            found.append(import_module(name))
        except ImportError as error:
            package = name.split(".")[0]
            raise ConfigError(f"ONNX export needs the package {package} ({error}): pip install {package}") from None
    return found
