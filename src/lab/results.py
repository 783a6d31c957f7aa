# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the runs of a matrix have measured, read from their folders; what is missing is listed, never averaged over."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.config import Config
from ..core.errors import CheckpointError, ConfigError, DataError
from .layers import LayerResults, cached_layers
from .matrix import LOG, Judge, Matrix, Run
from .standing import config_hash, final_evaluation, read_records, standing

logger = logging.getLogger(__name__)

LAYERS = "layers.json"
ABSENT = -1.0
"""A metric without ground truth to be measured on."""
_AGREE = 0.002
"""How far the answering layer's AP may lie from the AP of the training's own evaluation: rounding on another device."""

LoadConfig = Callable[[Path, Sequence[str]], Config]


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    run: Run
    stats: dict[str, float]
    """Metrics of the evaluation that counts, fractions in [0, 1]; -1 where there is no ground truth of that kind."""
    epoch: int
    step: int
    curve: list[tuple[int, dict[str, float]]]
    """Step and metrics of every evaluation."""
    seconds_per_step: float | None
    config_hash: str
    layers: LayerResults | None = None


@dataclass
class Results:
    """Everything that can be said of a matrix at this moment."""

    matrix: Matrix
    outcomes: list[Outcome] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Label of a run that is not used, and why."""
    notes: list[str] = field(default_factory=list)
    """What could not be measured of a run that is used."""

    def of(self, data: str, variant: str) -> dict[int, Outcome]:
        """The finished runs of one cell, by seed."""
        return {one.run.seed: one for one in self.outcomes if (one.run.data, one.run.variant) == (data, variant)}


class Configs:
    """The config of every run of a matrix, loaded once per data set and variant.

    Args:
        load: reads a YAML file with overrides (``isdfine.load_config``).
    """

    def __init__(self, load: LoadConfig) -> None:
        self._load = load
        self._loaded: dict[tuple[Path, tuple[str, ...]], Config] = {}

    def __getitem__(self, run: Run) -> Config:
        key = (run.config, run.overrides)
        if key not in self._loaded:
            try:
                self._loaded[key] = self._load(run.config, run.overrides)
            except ConfigError as error:
                raise ConfigError(f"{run.label}: {error}") from error
        return self._loaded[key].with_values({"seed": run.seed, "output_dir": str(run.folder.path)})

    def plain(self, run: Run) -> dict[str, Any]:
        """The same as plain data."""
        return self[run].data


def collect(matrix: Matrix, configs: Configs, *, layers: bool = True) -> Results:
    """Read what is there of every run.

    Args:
        matrix: what is compared.
        configs: the config that each run must have.
        layers: also measure AP over decoder layers, where it is not known yet.
    """
    results = Results(matrix)
    for run in matrix.runs():
        expected = configs.plain(run)
        found = standing(run.folder, expected)
        if found.differences and found.state != "absent":
            results.missing[run.label] = f"made from another config: {found.complaint}"
        elif found.state != "done":
            results.missing[run.label] = _why(run, found.state)
        else:
            results.outcomes.append(_outcome(run, expected, matrix, configs, results.notes, layers=layers))
    return results


def _why(run: Run, state: str) -> str:
    if state == "interrupted":
        return "interrupted: start the ablation again to go on with it"
    log = run.folder.path / LOG
    return f"ended before its first checkpoint: see {log}" if log.is_file() else "not run"


def _outcome(
    run: Run, expected: Mapping[str, Any], matrix: Matrix, configs: Configs, notes: list[str], *, layers: bool
) -> Outcome:
    records = read_records(run.folder.metrics)
    curve = [(int(one["step"]), _stats(one)) for one in records if one["kind"] == "val"]
    judged = _judged(records, final_evaluation(run.folder, expected), matrix.judge)
    _check_metrics(run, judged, matrix.metrics)
    seconds = [float(one["seconds_per_step"]) for one in records if "seconds_per_step" in one]
    return Outcome(
        run=run,
        stats=_stats(judged),
        epoch=int(judged["epoch"]),
        step=int(judged["step"]),
        curve=curve,
        seconds_per_step=statistics.median(seconds) if seconds else None,
        config_hash=config_hash(expected),
        layers=_layers(run, configs, matrix.judge, judged, notes) if layers else None,
    )


def _judged(records: Sequence[dict[str, Any]], final: dict[str, Any] | None, judge: Judge) -> dict[str, Any]:
    """The evaluation that counts: the last, or the first with the highest AP (whose weights are ``best.pth``)."""
    assert final is not None  # the run is done
    evaluations = [one for one in records if one["kind"] == "val"]
    return final if judge == "last" else max(evaluations, key=lambda one: one["AP"])


def _check_metrics(run: Run, judged: Mapping[str, Any], metrics: Sequence[str]) -> None:
    known = _stats(judged)
    for name in metrics:
        if name not in known:
            raise ConfigError(
                f"{run.label}: its evaluations have no {name}: write one of {', '.join(known)} under metrics"
            )


def _stats(record: Mapping[str, Any]) -> dict[str, float]:
    numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
    return {key: float(value) for key, value in numbers.items() if key not in ("step", "epoch")}


def _layers(
    run: Run, configs: Configs, judge: Judge, judged: Mapping[str, Any], notes: list[str]
) -> LayerResults | None:
    """AP over layers; None with a note where it cannot be measured or is that of other weights than were judged."""
    checkpoint = run.folder.last if judge == "last" else run.folder.best
    try:
        found = cached_layers(configs[run], checkpoint, run.folder.path / LAYERS)
    except (CheckpointError, ConfigError, DataError) as error:
        notes.append(f"{run.label}: no AP over layers: {error}")
        return None
    answered = found.stats[found.answers]["AP"]
    if abs(answered - judged["AP"]) > _AGREE:
        notes.append(
            f"{run.label}: its layers are left out: {checkpoint.name} gives AP {100 * answered:.2f} but the evaluation "
            f"that counts {100 * judged['AP']:.2f}; it holds other weights (a second stage that went back, other data)"
        )
        return None
    return found
