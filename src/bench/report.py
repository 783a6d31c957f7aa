# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a latency run found: plain data for JSON, and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .subject import Facts
from .timing import Timing, TimingPlan, ratio, table

NETWORK = "network input in the device's memory -> detections in the CPU's memory"


@dataclass(frozen=True)
class Measurement:
    """A measurement."""

    timings: Mapping[str, Timing]
    """By label; the first is what the others are compared with."""
    facts: Mapping[str, Facts]
    plan: TimingPlan
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
                models[label][f"time_over_{first}"] = ratio(timing, self.timings[first]).plain()
            if self.accuracy is not None:
                metrics = self.accuracy[label].items()
                models[label]["coco"] = {name: value if math.isfinite(value) else None for name, value in metrics}
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
            facts, summary = self.facts[label], timing.summary(self.batch)
            row = [label, facts.backend, facts.precision, f"{facts.size[0]}x{facts.size[1]}"]
            row += [f"{summary[key]:.2f}" for key in ("median_ms", "p90_ms", "p99_ms")]
            row += [f"{summary['spread_percent']:.1f}", f"{summary['images_per_second']:.1f}"]
            if label == first and len(self.timings) > 1:
                row += ["1", ""]
            elif len(self.timings) > 1:
                row += ratio(timing, self.timings[first]).cells()
            if self.accuracy is not None:
                row.append(f"{100 * self.accuracy[label]['AP']:.2f}")
            rows.append(row)
        return table(rows, markdown=markdown)
