# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers that a component refuses when it is built."""

from __future__ import annotations

import math


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a finite number above 0 (ValueError)."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}: give a number above 0")


def check_non_negative(name: str, value: float) -> None:
    """Refuse what is not a finite number of 0 or more (ValueError)."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}: give 0 or more")


def check_share(name: str, value: float) -> None:
    """Refuse what is not in 0..1 (ValueError)."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}: give a number from 0 to 1")


def check_counts(*, most: int = 100_000, **counts: int) -> None:
    """Refuse sizes and numbers of things below 1 or above ``most``, by name (ValueError)."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
        if value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")
