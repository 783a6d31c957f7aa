# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the runs of a matrix have measured, read from their folders; what is missing is listed, never averaged over."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from ..core.config import Config
from ..core.errors import CheckpointError, ConfigError, DataError
from . import train_log
from .layers import LayerResults, cached_layers, known_layers
from .matrix import Judge, Matrix, Trial
from .run_status import config_hash, evaluations, final_evaluation, read_records, run_status, saved_step
from .statistics import Paired, compare
from .teachers import Stats, cached_teacher

logger = logging.getLogger(__name__)

LAYERS = "layers.json"
ABSENT = -1.0
"""A metric without ground truth to be measured on."""
_AGREE = 0.002
"""How far the answering layer's AP may lie from the AP of the training's own evaluation: rounding on another device."""

Layers = Literal["measure", "known", "leave out"]
"""AP over decoder layers: measured where it is not known yet, only where it is known, or not at all."""

LoadConfig = Callable[[Path, Sequence[str]], Config]


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    run: Trial
    stats: dict[str, float]
    """Metrics of the evaluation that counts, fractions in [0, 1]; -1 where there is no ground truth of that kind."""
    epoch: int
    step: int
    curve: list[tuple[int, dict[str, float]]]
    """Step and metrics of every evaluation."""
    seconds_per_step: float | None
    config_hash: str
    layers: LayerResults | None = None
    teacher: Stats | None = None
    """Metrics of its teacher on the same data; None without one, or where they are not known."""
    peak_mib: tuple[str, float] | None = None
    """What was counted (``cuda``: tensors there; ``resident``: main memory of the process), and the most of it."""


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
        return {
            outcome.run.seed: outcome
            for outcome in self.outcomes
            if (outcome.run.data, outcome.run.variant) == (data, variant)
        }

    def values(self, data: str, variant: str, metric: str) -> dict[int, float]:
        """A metric by seed, where there was something to measure."""
        stats = {seed: outcome.stats[metric] for seed, outcome in self.of(data, variant).items()}
        return {seed: value for seed, value in stats.items() if value != ABSENT}

    def paired(self, data: str, variant: str, metric: str) -> Paired | None:
        """Comparison with the baseline; None for the baseline itself and where no seed is common."""
        baseline = self.matrix.baseline
        if variant == baseline:
            return None
        return compare(self.values(data, variant, metric), self.values(data, baseline, metric))

    def paired_first_layer(self, data: str, variant: str) -> Paired | None:
        """Comparison of the first layer's boxes with the baseline's."""
        metric, baseline = self.matrix.metrics[0], self.matrix.baseline
        variants, base = (
            {
                seed: outcome.layers.stats[0][metric]
                for seed, outcome in self.of(data, name).items()
                if outcome.layers is not None
            }
            for name in (variant, baseline)
        )
        return None if variant == baseline else compare(variants, base)


class Configs:
    """The config of every run of a matrix, loaded once per data set and variant.

    Args:
        load: reads a YAML file with overrides (``isdfine.load_config``).
    """

    def __init__(self, load: LoadConfig) -> None:
        self._load = load
        self._loaded: dict[tuple[Path, tuple[str, ...]], Config] = {}

    def __getitem__(self, run: Trial) -> Config:
        key = (run.config, run.overrides)
        if key not in self._loaded:
            try:
                self._loaded[key] = self._load(run.config, run.overrides)
            except ConfigError as error:
                raise ConfigError(f"{run.label}: {error}") from error
        return self._loaded[key].with_values({"seed": run.seed, "output_dir": str(run.folder.path)})

    def check(self, runs: Sequence[Trial]) -> None:
        """Load every config once.

        Raises:
            ConfigError: all that is wrong in any of them, each mistake once.
        """
        problems: list[str] = []
        for run in runs:
            try:
                self[run]
            except ConfigError as error:
                cell = run.label.rsplit("/", 1)[0]
                text = str(error).replace(run.label, cell, 1)  # all seeds of a variant share its mistake
                if text not in problems:
                    problems.append(text)
        if problems:
            raise ConfigError("\n".join(problems))

    def plain(self, run: Trial) -> dict[str, Any]:
        """The same as plain data."""
        return self[run].data


class Teachers:
    """Metrics of the teachers of a matrix, each asked for once.

    Args:
        folder: of the matrix.
        measure: what is not known yet.
    """

    def __init__(self, folder: Path, *, measure: bool) -> None:
        self._folder, self._measure = folder, measure
        self._seen: dict[tuple[str, str], Stats | None] = {}

    def of(self, run: Trial, configs: Configs, notes: list[str]) -> Stats | None:
        """Of a run's teacher on its data; None with a note, once, where they cannot be measured."""
        config = configs[run]
        key = (run.data, repr(config.settings.teacher))
        if key not in self._seen:
            try:
                self._seen[key] = cached_teacher(config, self._folder, measure=self._measure)
            except (CheckpointError, ConfigError, DataError) as error:
                notes.append(f"{run.label}: no AP of its teacher: {error}")
                self._seen[key] = None
        return self._seen[key]


def collect(matrix: Matrix, configs: Configs, *, layers: Layers = "measure", teachers: bool = False) -> Results:
    """Read what is there of every run.

    Args:
        matrix: what is compared.
        configs: the config that each run must have.
        layers: where AP over decoder layers comes from.
        teachers: whether to measure those that are not known yet.
    """
    results = Results(matrix)
    results.notes += _same_configs(matrix, configs)
    judged = Teachers(matrix.output_dir, measure=teachers)
    for run in matrix.runs():
        expected = configs.plain(run)
        status = run_status(run.folder, expected)
        if status.differences and status.state != "absent":
            results.missing[run.label] = f"made from another config: {status.complaint}"
        elif status.state != "done":
            results.missing[run.label] = _why(run, status.state)
        else:
            outcome = _outcome(run, expected, matrix, configs, results.notes, layers=layers)
            outcome = replace(outcome, teacher=judged.of(run, configs, results.notes))
            broken = [name for name in matrix.metrics if not math.isfinite(outcome.stats[name])]
            if broken:
                results.missing[run.label] = f"finished, but its {' and '.join(broken)} is no number"
            else:
                results.outcomes.append(outcome)
    return results


def _same_configs(matrix: Matrix, configs: Configs) -> list[str]:
    """A note for every two variants that are one: a forgotten or mistaken override compares a thing with itself."""
    notes = []
    for data in matrix.data:
        known: dict[str, str] = {}
        for variant in matrix.variants:
            run = matrix.run(data, variant, matrix.seeds[0])
            other = known.setdefault(config_hash(configs.plain(run)), variant.name)
            if other != variant.name:
                of_data = f"{data.name}: " if data.name else ""
                notes.append(f"{of_data}{other} and {variant.name} have the same config: they differ by nothing")
    return notes


def _why(run: Trial, state: str) -> str:
    if run.is_locked():
        return "in training at this moment"
    log = run.folder.path / train_log.NAME
    failure = train_log.failure(log)
    if failure is not None:
        return f"failed: {failure}; see {log}"
    if state == "interrupted":
        return "interrupted: start the ablation again to go on with it"
    return f"ended before its first checkpoint: see {log}" if log.is_file() else "not run"


def _outcome(
    run: Trial, expected: Mapping[str, Any], matrix: Matrix, configs: Configs, notes: list[str], *, layers: Layers
) -> Outcome:
    records = read_records(run.folder.metrics)
    curve = [(int(evaluation["step"]), _stats(evaluation)) for evaluation in evaluations(records)]
    judged = _judged(records, final_evaluation(run.folder, expected), matrix.judge)
    _check_metrics(run, judged, matrix.metrics)
    skipped = sum(record["kind"] == "train" and not math.isfinite(record.get("loss", 0.0)) for record in records)
    if skipped:
        notes.append(f"{run.label}: the loss of {skipped} of its log lines is no number (nonfinite: skip)")
    seconds = [float(record["seconds_per_step"]) for record in records if "seconds_per_step" in record]
    return Outcome(
        run=run,
        stats=_stats(judged),
        epoch=int(judged["epoch"]),
        step=int(judged["step"]),
        curve=curve,
        seconds_per_step=median(seconds) if seconds else None,
        config_hash=config_hash(expected),
        peak_mib=_peak(records),
        layers=_layers(run, configs, matrix.judge, judged, notes, measure=layers == "measure")
        if layers != "leave out"
        else None,
    )


def _peak(records: Sequence[dict[str, Any]]) -> tuple[str, float] | None:
    """The most memory that any attempt of a run has logged."""
    for kind in ("cuda", "resident"):
        found = [float(record[key]) for record in records if (key := f"peak_{kind}_mib") in record]
        if found:
            return kind, max(found)
    return None


def _judged(records: Sequence[dict[str, Any]], final: dict[str, Any] | None, judge: Judge) -> dict[str, Any]:
    """The evaluation that counts: the last, or the first with the highest AP (whose weights are ``best.pth``)."""
    assert final is not None  # the run is done
    if judge == "last":
        return final
    return max(
        evaluations(records), key=lambda evaluation: -math.inf if math.isnan(evaluation["AP"]) else evaluation["AP"]
    )


def _check_metrics(run: Trial, judged: Mapping[str, Any], metrics: Sequence[str]) -> None:
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
    run: Trial, configs: Configs, judge: Judge, judged: Mapping[str, Any], notes: list[str], *, measure: bool
) -> LayerResults | None:
    """AP over layers; None with a note where it cannot be measured or is that of other weights than were judged."""
    checkpoint = run.folder.last if judge == "last" else run.folder.best
    if not checkpoint.is_file() and saved_step(run.folder.best) == judged["step"]:
        checkpoint = run.folder.best  # killed between its two savings: the same weights
    cache = run.folder.path / LAYERS
    try:
        measured = cached_layers(configs[run], checkpoint, cache) if measure else known_layers(checkpoint, cache)
    except (CheckpointError, ConfigError, DataError) as error:
        notes.append(f"{run.label}: no AP over layers: {error}")
        return None
    if measured is None:
        return None
    answered = measured.stats[measured.answers]["AP"]
    if not abs(answered - judged["AP"]) <= _AGREE:
        notes.append(
            f"{run.label}: its layers are left out: {checkpoint.name} gives AP {100 * answered:.2f} but the evaluation "
            f"that counts {100 * judged['AP']:.2f}; it holds other weights (a second stage that went back, other data)"
        )
        return None
    return measured
