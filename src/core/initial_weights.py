# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Take out of a config what its model would start from: the weights come from elsewhere, or do not matter."""

from __future__ import annotations

from typing import Any

from .config import Config


def without_initial_weights(config: Config) -> Config:
    """The config with nothing to load while its model is built.

    Every ``pretrained`` becomes False and every ``weights`` that names a file becomes None, also in components that are
    given inline.
    """
    return config.with_values(_values(config.data))


def _values(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What to change inside a mapping, by dotted key."""
    values: dict[str, Any] = {}
    for key, child in section.items():
        if isinstance(child, dict):
            values |= _values(child, f"{prefix}{key}.")
        elif prefix and key == "weights" and isinstance(child, str):
            values[f"{prefix}{key}"] = None
        elif prefix and key == "pretrained" and child:
            values[f"{prefix}{key}"] = False
    return values
