# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where a run stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .stages import BestSoFar


@dataclass
class Progress:
    """Counters of a run; plain numbers, stored in checkpoints."""

    epoch: int = 0
    """Epoch in progress, or the next one (0-based)."""
    batch: int = 0
    """Batches of that epoch already done."""
    step: int = 0
    """Batches of the whole run already done."""
    best: BestSoFar = field(default_factory=BestSoFar)
    """What the selection of the best checkpoint remembers."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Progress:
        """The progress that :meth:`to_dict` wrote."""
        return cls(saved["epoch"], saved["batch"], saved["step"], BestSoFar(**saved["best"]))
