# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a latency run found: plain data for JSON, and a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isdfine.core.errors import ConfigError
from isdfine.core.files import whole_file

from .subject import Facts
from .timing import Plan, Timing, ratio, table

NETWORK = "network input in the device's memory -> detections in the CPU's memory"


@dataclass(frozen=True)
class Run:
    """A measurement."""

    timings: Mapping[str, Timing]
    """By label; the first is what the others are compared with."""
    facts: Mapping[str, Facts]
    plan: Plan
    batch: int
    measured: str
    """From where to where, in words."""
    machine: Mapping[str, Any]
    accuracy: Mapping[str, Mapping[str, float]] | None = None
    """COCO metrics by label."""

    def plain(self) -> dict[str, Any]:
        """All of it, every call included; a metric without objects to judge by is None, for JSON knows no NaN."""
        first = next(iter(self.timings))
        models = {}
        for label, timing in self.timings.items():
            models[label] = self.facts[label].plain() | {"summary": timing.summary(self.batch)}
            if label != first:
                models[label][f"time_over_{first}"] = asdict(ratio(timing, self.timings[first]))
            if self.accuracy is not None:
                found = self.accuracy[label]
                models[label]["coco"] = {name: value if math.isfinite(value) else None for name, value in found.items()}
            models[label]["seconds_by_round"] = timing.rounds
        return {"measured": self.measured, "batch": self.batch, "plan": asdict(self.plan),
                "machine": dict(self.machine), "models": models}  # fmt: skip

    def table(self, *, markdown: bool = False) -> str:
        """One row per model; the ratio is the median over the rounds, with quartiles."""
        first = next(iter(self.timings))
        heading = ["model", "backend", "precision", "input", "median ms", "p90", "p99", "spread %", "images/s"]
        heading += [f"time / {first}", "quartiles"] if len(self.timings) > 1 else []
        rows = [[*heading, *(["AP"] if self.accuracy is not None else [])]]
        for label, timing in self.timings.items():
            facts, found = self.facts[label], timing.summary(self.batch)
            row = [label, facts.backend, facts.precision, f"{facts.size[0]}x{facts.size[1]}"]
            row += [f"{found[key]:.2f}" for key in ("median_ms", "p90_ms", "p99_ms")]
            row += [f"{found['spread_percent']:.1f}", f"{found['images_per_second']:.1f}"]
            if label == first and len(self.timings) > 1:
                row += ["1", ""]
            elif len(self.timings) > 1:
                over = ratio(timing, self.timings[first])
                row += [f"{over.median:.3f}", f"{over.quartile1:.3f} .. {over.quartile3:.3f}"]
            if self.accuracy is not None:
                row.append(f"{100 * self.accuracy[label]['AP']:.2f}")
            rows.append(row)
        return table(rows, markdown=markdown)

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            with whole_file(path) as partial:
                partial.write_text(json.dumps(self.plain(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: could not be written ({error.strerror}): choose another --output") from None
