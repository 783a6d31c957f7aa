# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Batch, loader workers and prefetch for this machine, from what it does: ``tools/train.py --auto``."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..core import dist
from ..core.config import Config
from ..core.environment import pick_device
from ..core.errors import ConfigError
from ..data.dataset.detection import DetectionDataset, SampleKey
from ..data.dataset.images import limit_pixels
from ..data.extent import Size, batch_sizes, largest_size
from ..data.loader import DataLoader
from .memory import Forecast, measure, refuse, tidy
from .probe import Probe, aside
from .progress import duration
from .resources import usable_bytes, usable_cores
from .training import folder_of

SECTION = "train_dataloader"
GAIN = 1.1
"""Images a second by which another batch must be better than the one the config gives: the learning rate belongs to
that one."""
BUDGET_S = 15.0
"""For measured steps of one image size; loading samples takes a third of it at most."""
FEWEST_STEPS = 10
"""Batches that an epoch keeps, where the config's own batch leaves as many."""
AHEAD = 4
"""Batches that workers together have ready: what one slow image holds up, others bridge."""
SPARE = 1.25
"""Workers in proportion to what the mean image needs."""


@dataclass(frozen=True)
class Choice:
    """What this machine gets, for each process, and what it was chosen by."""

    batch: int
    workers: int
    prefetch: int
    step_s: float
    """One step of ``batch`` images at the usual size."""
    load_s: float
    """One image from disk to tensor, on one core."""
    cores: int
    reasons: tuple[str, ...]
    """Why batch, workers and prefetch are what they are; a line each."""

    def epoch_s(self, batches: int, cores_shared: bool) -> float:
        """Seconds of an epoch without its evaluation.

        Workers run beside the device. On a CPU they take cores from the step.
        """
        loading = self.batch * self.load_s
        if cores_shared:
            return batches * (self.step_s + loading / self.cores)
        return batches * max(self.step_s, loading / max(1, self.workers))


class Tuned(NamedTuple):
    """What ``auto_tune`` found."""

    config: Config
    """With the choice in it."""
    lines: list[str]
    """What was chosen and why."""
    train_data: DetectionDataset
    """As it was read, so that the run need not read it again."""


def auto_tune(config: Config, *, keep_batch: bool = False) -> Tuned:
    """Measure steps and loading beside the run, and choose.

    What an override (``-u``) says stays as it is. A value from a file does not: files are shared between machines.

    Args:
        config: with all sections of a training run.
        keep_batch: choose workers and prefetch only (a resumed run's place in the data depends on its batch).

    Raises:
        ConfigError: not even one image fits, or the batch that was asked for does not; or the run could not start.
    """
    folder_of(config)
    device = pick_device(config.settings.device)
    limit_pixels(config.settings.max_pixels)
    loader: DataLoader = config.build(SECTION)
    if not config.get("num_classes"):
        config = config.with_values({"num_classes": len(loader.dataset.label_space)})
    fixed = _overridden(config)
    old = loader.sampler.batch_size
    load_s = seconds_per_sample(loader)  # not aside: what the data set warns of, it says once
    with aside():
        usable = usable_bytes(device)
        probe = Probe(config, device, loader)
        begin = time.perf_counter()
        memory = measure(probe, largest_size(loader), usable, old)
        steps = _Steps(probe, _usual_size(loader), _slow_step(memory, time.perf_counter() - begin))
        wanted = old if keep_batch or "batch" in fixed else _best_batch(old, memory, steps, loader)
        choice = _completed(wanted, steps, load_s, loader, fixed)
    del probe
    tidy(device)
    choice = _common(choice)
    refuse(memory, choice.batch)
    loader.close()
    values = _values(config, choice)
    tuned = config.with_values(values)
    lines = [f"auto: {line}" for line in _lines(config, choice, memory, loader, device, fixed, keep_batch)]
    return Tuned(tuned, lines, loader.dataset)


def _slow_step(memory: Forecast, seconds: float) -> float | None:
    """Seconds for each pixel of a model so slow on a CPU that the one step which measured its memory must do for its
    time too.

    Recording memory takes a part of them: such a time is up to a third too long.
    """
    if memory.device.type != "cpu" or len(memory.points) != 1 or seconds < BUDGET_S:
        return None
    return seconds / math.prod(memory.size)


class _Steps:
    """Seconds of a step by batch, measured when first asked for, as long as there is time.

    Args:
        probe: takes the steps.
        size: of their images.
        per_pixel: seconds of a step of one image, where they are known; None measures.
    """

    def __init__(self, probe: Probe, size: Size, per_pixel: float | None = None) -> None:
        self.size = size
        self._probe = probe
        self._begin = time.perf_counter()
        self.known: dict[int, float] = {}
        if per_pixel is None:
            self._measure(1)
        else:
            self.known[1] = per_pixel * math.prod(size)

    def __call__(self, batch: int) -> float:
        """Measured where it was, else in proportion to the nearest batch that was."""
        nearest = min(self.known, key=lambda one: abs(one - batch))
        return self.known[nearest] * batch / nearest

    def try_batch(self, batch: int) -> bool:
        """Measure a batch, unless it would take too long."""
        left = BUDGET_S - (time.perf_counter() - self._begin)
        if batch not in self.known and 3 * self(batch) < left:
            self._measure(batch)
        return batch in self.known

    def _measure(self, batch: int) -> None:
        first = self._probe.seconds(batch, self.size)  # the first step at a size is slower, by little where it is long
        long = first > BUDGET_S / 3
        self.known[batch] = first if long else min(self._probe.seconds(batch, self.size) for _ in range(2))


def _best_batch(old: int, memory: Forecast, steps: _Steps, loader: DataLoader) -> int:
    """The config's batch if it fits; a larger one while doubling pays, on a CPU also a smaller one."""
    samples, world = len(loader.dataset), loader.sampler.shard[1]
    limit = min(memory.fits, max(old, samples // (FEWEST_STEPS * world)))
    if limit < 1:
        return 1  # refused with the figures
    best = min(old, limit)
    for factor in (2.0, 0.5) if memory.device.type == "cpu" else (2.0,):
        while 1 <= (other := int(best * factor)) <= limit and steps.try_batch(best) and steps.try_batch(other):
            if other / steps(other) < GAIN * best / steps(best):
                break
            best = other
    return best


def seconds_per_sample(loader: DataLoader, at_most: int = 32) -> float:
    """Mean wall time to make one sample in one thread, from images all over the data set; 0 samples take no time."""
    count = len(loader.dataset)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begin, done = time.perf_counter(), 0
        for index in range(0, count, max(1, count // at_most)):
            loader.dataset[SampleKey(0, index, loader.seed)]
            done += 1
            if time.perf_counter() - begin > BUDGET_S / 3:
                break
        return (time.perf_counter() - begin) / max(1, done)
    finally:
        torch.set_num_threads(threads)


def _completed(batch: int, steps: _Steps, load_s: float, loader: DataLoader, fixed: Mapping[str, int]) -> Choice:
    """Workers and prefetch for a batch."""
    steps.try_batch(batch)
    cores, step_s = usable_cores(), steps(batch)
    needed = max(1, math.ceil(SPARE * batch * load_s / step_s))
    most = max(1, cores - 1)
    workers = fixed.get("workers", min(needed, most))
    image = 3 * math.prod(max(batch_sizes(loader)))
    # Batches on their way lie in shared memory: at most a tenth of what is free.
    room = _shared_memory() // 10 // max(1, 4 * batch * image * max(1, workers))
    ahead = min(AHEAD, max(2, math.ceil(AHEAD / max(1, workers))))
    prefetch = fixed.get("prefetch", max(1, min(ahead, room)))
    tried = ", ".join(f"{one}: {one / seconds:.3g}" for one, seconds in sorted(steps.known.items()))
    reasons = (
        f"images a second at {steps.size[0]}x{steps.size[1]} by batch: {tried}",
        f"a step of {batch} takes {duration(step_s)}, loading its images {duration(batch * load_s)} on one core, so "
        f"{needed} would do; {cores} cores for this process",
        f"{AHEAD} batches ahead in all; {batch * image * 4 / 1e6:.0f} MB each at most",
    )
    return Choice(batch, workers, prefetch, step_s, load_s, cores, reasons)


def _common(mine: Choice) -> Choice:
    """The same choice on all ranks: the smallest of everything, and the slowest's times."""
    all_ranks = dist.gather_objects((mine.batch, mine.workers, mine.prefetch, mine.step_s / mine.batch, mine.load_s))
    batch, workers, prefetch = (min(one[index] for one in all_ranks) for index in range(3))
    per_image, load_s = (max(one[index] for one in all_ranks) for index in (3, 4))
    return Choice(int(batch), int(workers), int(prefetch), per_image * batch, load_s, mine.cores, mine.reasons)


_KEYS = {"batch": ("batch_size", "total_batch_size"), "workers": ("num_workers",), "prefetch": ("prefetch_factor",)}


def _overridden(config: Config) -> dict[str, int]:
    """What the command line fixes, by what is chosen; its batch is read from the loader."""
    origins, section = config.origins, _section(config)
    found: dict[str, int] = {}
    for name, keys in _KEYS.items():
        for key in keys:
            value = config.get(f"{section}.{key}")
            if value is not None and origins.get(f"{section}.{key}", "").startswith("override "):
                found[name] = int(value)
    return found


def _values(config: Config, choice: Choice) -> dict[str, Any]:
    section = _section(config)
    batch: dict[str, Any] = {"total_batch_size": choice.batch * dist.world_size()}
    if config.get(f"{section}.batch_size") is not None:
        batch = {"batch_size": choice.batch}
    chosen = {**batch, "num_workers": choice.workers, "prefetch_factor": choice.prefetch}
    return {f"{section}.{key}": value for key, value in chosen.items()}


def _section(config: Config) -> str:
    """Where the loader's arguments stand: inline, or in a section that is named."""
    found = config.get(SECTION)
    if not isinstance(found, (dict, str)):
        raise ConfigError(f"{config.origins.get(SECTION, config.path)}: {SECTION}: expected a data loader")
    return found if isinstance(found, str) else SECTION


def _lines(
    config: Config,
    choice: Choice,
    memory: Forecast,
    loader: DataLoader,
    device: torch.device,
    fixed: Mapping[str, int],
    keep_batch: bool,
) -> list[str]:
    """What was chosen and why, one line each."""
    old, world = loader.sampler.batch_size, dist.world_size()
    why = dict.fromkeys(fixed, "given with -u") | ({"batch": "kept, because the run is resumed"} if keep_batch else {})
    ranks = f" for each of {world} processes" if world > 1 else ""
    share = len(loader.dataset) / (choice.batch * world)
    steps = max(1, math.floor(share) if loader.sampler.drop_last else math.ceil(share))
    verdict = _verdict(choice.batch, old, memory.fits)
    eager = "; of the eager model: compile makes it faster" if config.settings.compile else ""
    return [
        f"batch {choice.batch}{ranks} (config: {old}): {why.get('batch', f'{verdict}; {choice.reasons[0]}')}",
        f"memory: {memory.describe()}",
        f"num_workers {choice.workers} (config: {loader.num_workers}): {why.get('workers', choice.reasons[1])}",
        f"prefetch_factor {choice.prefetch} (config: {loader.prefetch_factor}): "
        f"{why.get('prefetch', choice.reasons[2])}",
        _about_the_rate(config, choice.batch / old, old * world, choice.batch * world),
        f"expected: {duration(choice.epoch_s(steps, device.type == 'cpu'))} for an epoch of {steps} steps, without "
        f"evaluation and the start of workers{eager}",
    ]


def _verdict(batch: int, old: int, fits: int) -> str:
    """The rule that decided."""
    if batch == old:
        return "it fits, and no other that was measured makes 10 % more images a second"
    return "the config's does not fit" if fits < old else "it makes at least 10 % more images a second"


def _about_the_rate(config: Config, factor: float, old: int, new: int) -> str:
    """What a changed batch means for the learning rate, which stays."""
    rate = config.get("optimizer.lr")
    if factor == 1:
        return f"learning rate {rate}: fits, the batch is the config's"
    scaled = (
        "" if rate is None else f" -u optimizer.lr={float(rate) * factor:.3g} and every optimizer.params.N.lr alike"
    )
    return (
        f"learning rate {rate}: unchanged, though it was chosen for {old} images a step and there are {new} now; the "
        f"published recipes go in proportion (8e-4 at 128, 2e-4 at 32), which would be x{factor:.3g}:{scaled}; or keep "
        f"the batch with -u train_dataloader.total_batch_size={old}"
    )


def _usual_size(loader: DataLoader) -> Size:
    """The drawn size whose area is nearest to the mean."""
    sizes = batch_sizes(loader)[:-1] or batch_sizes(loader)
    mean = sum(height * width for height, width in sizes) / len(sizes)
    return min(sizes, key=lambda size: abs(size[0] * size[1] - mean))


def _shared_memory() -> int:
    """Bytes that are free where workers put their batches."""
    if not os.path.isdir("/dev/shm"):
        return 2**40
    room = os.statvfs("/dev/shm")
    return room.f_bavail * room.f_frsize
