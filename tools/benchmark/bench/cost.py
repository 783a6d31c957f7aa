# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What distillation costs: time and memory of one training step per method, side by side.

All methods share one model, one batch and a learning rate of 0, so that they differ in nothing but their losses, and
take turns step by step in a new order each round, so that other work on the machine meets all of them alike.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isdfine.core.config import Config
from isdfine.core.errors import ConfigError
from isdfine.distill.context import DistillationContext
from isdfine.distill.diagnostics import Diagnostics
from isdfine.distill.objective import Objective, build_objective
from isdfine.optim.ema import ModelEMA
from isdfine.optim.precision import Precision
from isdfine.optim.schedule import Schedule
from isdfine.optim.step import Optim
from isdfine.solver.probe import dummy_target, lasting_tensors, peak_of_allocations, storage_bytes
from isdfine.solver.train import train_one_epoch
from isdfine.solver.trained import Trained

_GO_LSD = {"type": "GOLSD"}
_DOWN = {"type": "InterLayerDistillation", "direction": "deep_to_shallow"}
_UP = {"type": "InterLayerDistillation", "direction": "shallow_to_deep"}
_CLASSES = {**_DOWN, "class_weight": 0.5}
_ATTENTION = {"type": "AttentionDistillation", "ramp": [0.0, 0.0]}
_ATTENTION_UP = {**_ATTENTION, "direction": "shallow_to_deep"}
_LEVELS = {**_ATTENTION, "cross_mode": "levels"}
BASELINE = "go-lsd"
OWN_MATCHES = "fdr-only"
METHODS: Mapping[str, list[dict[str, Any]]] = {
    OWN_MATCHES: [],
    "none": [],
    BASELINE: [_GO_LSD],
    "inter-d2s": [_DOWN],
    "inter-s2d": [_UP],
    "inter-d2s+class": [_CLASSES],
    "go-lsd+attn": [_GO_LSD, _ATTENTION],
    "inter-d2s+attn": [_DOWN, _ATTENTION],
    "inter-s2d+attn": [_UP, _ATTENTION_UP],
    "inter-d2s+class+attn": [_CLASSES, _ATTENTION],
    "go-lsd+attn+levels": [_GO_LSD, _LEVELS],
    "inter-d2s+attn+levels": [_DOWN, _LEVELS],
}
"""``distillers:`` by name; ramps act from the first step. ``fdr-only`` also scores every layer on its own matches:
GO-LSD is its union of all layers' matches (which ``none`` keeps) and its loss together."""


@dataclass(frozen=True)
class Workload:
    """What is trained on: noise with random boxes, in the sizes of a real batch."""

    image_size: tuple[int, int]
    """(height, width) in pixels."""
    batch: int
    boxes: int = 10
    """Ground-truth boxes per image; BCCD has 12 on average, COCO 7."""
    steps: int = 10
    """Rounds that count; every method takes one step in each."""
    warmup: int = 2
    """Rounds before, at least 1."""
    diagnose: bool = False
    """Also measure a step that writes diagnostics, with the baseline's losses."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {value}: give {least} or more"
            for name, value, least in (
                ("batch", self.batch, 1),
                ("boxes", self.boxes, 0),
                ("steps", self.steps, 1),
                ("warmup", self.warmup, 1),
                ("image_size", min(self.image_size), 32),
            )
            if value < least
        ]
        if wrong:
            raise ConfigError("; ".join(wrong))


@dataclass(frozen=True)
class Cost:
    """One method's step."""

    method: str
    seconds: tuple[float, ...]
    """Per round: on a GPU between events on its stream, on a CPU processor time of all threads of this process."""
    peak_bytes: int
    """Largest sum of live tensors in a step: weights, averaged weights, optimizer state, batch, activations."""
    resident_bytes: int | None = None
    """Largest resident memory of a process of its own, libraries included; None where it was not measured."""

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        """Seconds of the round with the least disturbance: other work on the machine only adds time."""
        return min(self.seconds)

    def time_ratio(self, other: Cost) -> tuple[float, float, float]:
        """Median and quartiles of the ratio to another method's step of the same round, as (median, low, high)."""
        ratios = sorted(mine / theirs for mine, theirs in zip(self.seconds, other.seconds))
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high


def measure(config: Config, methods: Sequence[str], work: Workload, device: torch.device) -> list[Cost]:
    """Cost of each method.

    Args:
        config: with model, criterion, optimizer; its data is not read.
        methods: keys of ``METHODS``.
        work: the steps.
        device: CPU or CUDA.

    Raises:
        ConfigError: an unknown method, or one that the config's model cannot serve.
    """
    check_methods(methods)
    bench = _Bench(config, work, device)
    steps = {name: _Step(bench, name) for name in methods}
    if work.diagnose:
        steps["diagnostics"] = _Step(bench, BASELINE, diagnose=True)
    for _ in range(work.warmup):
        for step in steps.values():
            step()
    peaks = {name: bench.peak_bytes(step) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for _ in range(work.steps):
        for name in order.sample(
            list(steps), len(steps)
        ):  # nobody always finds the caches as the same neighbour left them
            seconds[name].append(bench.seconds(steps[name]))
    return [Cost(name, tuple(seconds[name]), peaks[name]) for name in steps]


def check_methods(names: Sequence[str]) -> None:
    """Refuse what is not in ``METHODS``, or nothing at all (ConfigError)."""
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ConfigError(f"methods: {', '.join(unknown) or 'none given'}: choose from {', '.join(METHODS)}")


def resident_peak(config: Config, method: str, work: Workload) -> int:
    """Largest resident memory of this process in bytes after a few steps of one method on the CPU; Linux.

    Call it in a process that has done nothing else, with ``MALLOC_MMAP_THRESHOLD_`` set in its environment: the C
    library then returns freed blocks at once.

    Raises:
        ConfigError: an unknown method, or one that the config's model cannot serve.
    """
    check_methods([method])
    step = _Step(_Bench(config, work, torch.device("cpu")), method)
    for _ in range(work.warmup + 1):
        step()
    # not getrusage: its figure starts at what the parent held when it started this process
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


class _Bench:
    """Model, batch and optimizer that all methods share."""

    def __init__(self, config: Config, work: Workload, device: torch.device) -> None:
        torch.manual_seed(0)
        size = list(work.image_size)
        self.config = config.with_values({"eval_spatial_size": size, "num_classes": config.get("num_classes") or 80})
        self.device = device
        self.model: nn.Module = self.config.build("model")
        _let_layers_differ(self.model)
        self.model.to(device).train()
        self.optim = self._optim(config)
        self.images, self.targets = _batch(work, int(self.config.get("num_classes")), device)
        self.max_norm = config.settings.clip_max_norm

    def _optim(self, config: Config) -> Optim:
        optimizer = self.config.build("optimizer", model=self.model)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        name = config.settings.precision or "fp32"
        # steps beyond the first of a thousand epochs: warm-ups and milestones change nothing at a rate of 0
        schedule = Schedule(optimizer, None, None, steps_per_epoch=1000, total_epochs=1000)
        return Optim(optimizer, schedule, ModelEMA(self.model), Precision(name, self.device))

    def seconds(self, step: _Step) -> float:
        """Duration of one step."""
        if self.device.type != "cuda":
            begin = time.process_time()
            step()
            return time.process_time() - begin
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        start.record()
        step()
        end.record()
        torch.cuda.synchronize(self.device)
        return float(start.elapsed_time(end)) / 1000

    def peak_bytes(self, step: _Step) -> int:
        """Peak of one step after the warm-up, what was there before included."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            step()
            return torch.cuda.max_memory_allocated(self.device)
        return self._resident_bytes() + peak_of_allocations(step)

    def _resident_bytes(self) -> int:
        """Tensors that outlive a step, each storage once."""
        batch = [self.images, *(one for target in self.targets for one in target.values())]
        return storage_bytes([*lasting_tensors(self.model, self.optim), *batch])


class _Step:
    """One training step with a method's losses, through the loop that trains."""

    def __init__(self, bench: _Bench, method: str, *, diagnose: bool = False) -> None:
        self.bench = bench
        values: dict[str, Any] = {"distillers": METHODS[method]}
        if method == OWN_MATCHES:
            values[f"{bench.config.get('criterion')}.use_uni_set"] = False
        config = bench.config.with_values(values)
        self.objective: Objective = build_objective(config, bench.model).to(bench.device)
        self.diagnose = Diagnostics(self.objective.distillers) if diagnose else None
        self.trained = Trained(bench.model, self.objective, diagnose=diagnose)

    def __call__(self) -> None:
        bench = self.bench
        train_one_epoch(
            partial(self.trained, watch=self._watch),
            [(bench.images, bench.targets)],
            bench.optim,
            max_norm=bench.max_norm,
            window=contextlib.nullcontext,
            on_step=lambda report: None,
        )

    def _watch(self, context: DistillationContext) -> None:
        if self.diagnose is not None:
            self.diagnose(context)


def _let_layers_differ(model: nn.Module) -> None:
    """Noise for weights that start at 0: with them all layers agree, and there would be nothing to distil."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad and one.dim() > 1 and not one.any():
                one.copy_(torch.randn(one.shape, generator=noise) * 0.02)


def _batch(work: Workload, num_classes: int, device: torch.device) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images (B, 3, H, W) in [0, 1] and their targets."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(work.batch, 3, *work.image_size, generator=random)
    targets = [dummy_target(work.boxes, num_classes, random, device) for _ in range(work.batch)]
    return images.to(device), targets
