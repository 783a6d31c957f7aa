# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Batch, loader workers and prefetch for this machine, from what it does: ``isdfine train --auto``."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..core import dist
from ..core.config import Config
from ..core.environment import pick_device
from ..core.errors import ConfigError
from ..data.collate import Size
from ..data.dataset.detection import DetectionDataset, SampleKey
from ..data.dataset.images import limit_pixels
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
    """What every process gets, and what it was chosen by."""

    batch: int
    step_s: float
    """One step of ``batch`` images at the usual size."""
    load_s: float
    """One image from disk to tensor, on one core."""
    cores: int
    fixed: Mapping[str, int]
    """Workers and prefetch, where the command line says them."""

    @property
    def needed(self) -> int:
        """Workers that keep up with the steps."""
        return max(1, math.ceil(SPARE * self.batch * self.load_s / self.step_s))

    @property
    def workers(self) -> int:
        return self.fixed.get("num_workers", min(self.needed, max(1, self.cores - 1)))

    @property
    def prefetch(self) -> int:
        """Batches that each worker has ready."""
        return self.fixed.get("prefetch_factor", min(AHEAD, max(2, math.ceil(AHEAD / max(1, self.workers)))))

    def epoch_s(self, steps: int, device: torch.device) -> float:
        """Seconds of an epoch without its evaluation."""
        loading = self.batch * self.load_s
        if device.type == "cpu":  # workers take cores from the step
            return steps * (self.step_s + loading / self.cores)
        return steps * max(self.step_s, loading / max(1, self.workers))


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
    places = _places(config)
    said = {name for name, place in places.items() if config.origins.get(place, "").startswith("override ")}
    kept = dict.fromkeys((name for name in said if config.get(places[name]) is not None), "given with -u")
    if keep_batch:
        kept["batch"] = "kept, because the run is resumed"
    fixed: dict[str, int] = {name: getattr(loader, name) for name in ("num_workers", "prefetch_factor") if name in kept}
    load_s = seconds_per_sample(loader)  # not aside: what the data set warns of, it says once
    with aside():
        probe = Probe(config, device, loader)
        begin = time.perf_counter()
        memory = measure(probe, loader.largest_size, usable_bytes(device), loader.sampler.batch_size)
        steps = _Steps(probe, _usual_size(loader), memory, time.perf_counter() - begin)
        batch = loader.sampler.batch_size if "batch" in kept else _best_batch(memory, steps, loader)
        steps.try_batch(batch)
    choice = _common(Choice(batch, steps(batch), load_s, usable_cores(), fixed))
    del probe
    tidy(device)
    refuse(memory, choice.batch)
    loader.close()
    lines = [f"auto: {line}" for line in _lines(config, loader, memory, steps, choice, kept)]
    images = choice.batch if places["batch"].endswith(".batch_size") else choice.batch * dist.world_size()
    values = {"batch": images, "num_workers": choice.workers, "prefetch_factor": choice.prefetch}
    chosen = config.with_values({places[name]: value for name, value in values.items()})
    return Tuned(chosen, lines, loader.dataset)


class _Steps:
    """Seconds of a step by batch, measured when first asked for, as long as there is time.

    Args:
        probe: takes the steps.
        size: of their images.
        memory: of the steps that were taken before, at the largest size.
        seconds: that these took. A model so slow on a CPU that one of them takes longer than all of the budget is not
            asked again: its time follows from that step, up to a third too long because its memory was recorded.
    """

    def __init__(self, probe: Probe, size: Size, memory: Forecast, seconds: float) -> None:
        self.size = size
        self._probe = probe
        self._begin = time.perf_counter()
        self.known: dict[int, float] = {}
        if memory.device.type == "cpu" and len(memory.points) == 1 and seconds >= BUDGET_S:
            self.known[1] = seconds * math.prod(size) / math.prod(memory.size)
        else:
            self._measure(1)

    def __call__(self, batch: int) -> float:
        """Measured where it was, else in proportion to the nearest batch that was."""
        nearest = min(self.known, key=lambda known: abs(known - batch))
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


def _best_batch(memory: Forecast, steps: _Steps, loader: DataLoader) -> int:
    """The config's batch if it fits; a larger one while doubling pays, on a CPU also a smaller one."""
    old = loader.sampler.batch_size
    limit = min(memory.fits, max(old, len(loader.dataset) // (FEWEST_STEPS * dist.world_size())))
    best = min(old, max(1, limit))  # not even one: refused with the figures
    for factor in (2.0, 0.5) if memory.device.type == "cpu" else (2.0,):
        while 1 <= (other := int(best * factor)) <= limit and steps.try_batch(best) and steps.try_batch(other):
            if other / steps(other) < GAIN * best / steps(best):
                break
            best = other
    return best


def seconds_per_sample(loader: DataLoader, at_most: int = 32) -> float:
    """Mean wall time to make one sample in one thread, from images all over the data set; 0 samples take no time."""
    count, threads = len(loader.dataset), torch.get_num_threads()
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


def _common(mine: Choice) -> Choice:
    """The same on all ranks: the smallest batch, the slowest times and the fewest cores."""
    measured = (mine.batch, mine.step_s / mine.batch, mine.load_s, mine.cores)
    batches, seconds_per_image, loads, cores = zip(*dist.gather_objects(measured))
    return Choice(min(batches), min(batches) * max(seconds_per_image), max(loads), min(cores), mine.fixed)


def _places(config: Config) -> dict[str, str]:
    """Key of the config by what is chosen; the loader's arguments stand inline, or in a section that is named."""
    section = config.get(SECTION)
    if not isinstance(section, (dict, str)):
        raise ConfigError(f"{config.origins.get(SECTION, config.path)}: {SECTION}: expected a data loader")
    section = section if isinstance(section, str) else SECTION
    batch = "batch_size" if config.get(f"{section}.batch_size") is not None else "total_batch_size"
    keys = {"batch": batch, "num_workers": "num_workers", "prefetch_factor": "prefetch_factor"}
    return {name: f"{section}.{key}" for name, key in keys.items()}


def _lines(
    config: Config, loader: DataLoader, memory: Forecast, steps: _Steps, choice: Choice, kept: Mapping[str, str]
) -> list[str]:
    """What was chosen and why, one line each; ``kept`` is why something was no choice."""
    batch, old, world = choice.batch, loader.sampler.batch_size, dist.world_size()
    rule = "the config's does not fit" if memory.fits < old else "it makes at least 10 % more images a second"
    if batch == old:
        rule = "it fits, and no other that was measured makes 10 % more images a second"
    tried = ", ".join(f"{count}: {count / seconds:.3g}" for count, seconds in sorted(steps.known.items()))
    why = {
        "batch": f"{rule}; images a second at {steps.size[0]}x{steps.size[1]} by batch: {tried}",
        "num_workers": f"a step of {batch} takes {duration(choice.step_s)}, loading its images "
        f"{duration(batch * choice.load_s)} on one core, so {choice.needed} would do; {choice.cores} cores for this "
        "process",
        "prefetch_factor": f"{AHEAD} batches ahead in all; "
        f"{12e-6 * batch * math.prod(max(loader.batch_sizes)):.0f} MB each at most",
        **kept,
    }
    ranks = f" for each of {world} processes" if world > 1 else ""
    rounded = math.floor if loader.sampler.drop_last else math.ceil
    batches = max(1, rounded(len(loader.dataset) / (batch * world)))
    eager = "; of the eager model: compile makes it faster" if config.settings.compile else ""
    return [
        f"batch {batch}{ranks} (config: {old}): {why['batch']}",
        f"memory: {memory.describe()}",
        f"num_workers {choice.workers} (config: {loader.num_workers}): {why['num_workers']}",
        f"prefetch_factor {choice.prefetch} (config: {loader.prefetch_factor}): {why['prefetch_factor']}",
        _about_the_rate(config, batch / old, old * world, batch * world),
        f"expected: {duration(choice.epoch_s(batches, memory.device))} for an epoch of {batches} steps, without "
        f"evaluation and the start of workers{eager}",
    ]


def _about_the_rate(config: Config, factor: float, old: int, new: int) -> str:
    """What a changed batch means for the learning rate, which stays."""
    rate = config.get("optimizer.lr")
    if factor == 1:
        return f"learning rate {rate}: fits, the batch is the config's"
    again = "" if rate is None else f"optimizer.lr={float(rate) * factor:.3g}"
    scaled = again and f" -u {again} and every optimizer.params.N.lr alike"
    return (
        f"learning rate {rate}: unchanged, though it was chosen for {old} images a step and there are {new} now; the "
        f"published recipes go in proportion (8e-4 at 128, 2e-4 at 32), which would be x{factor:.3g}:{scaled}; or keep "
        f"the batch with -u train_dataloader.total_batch_size={old}"
    )


def _usual_size(loader: DataLoader) -> Size:
    """The drawn size whose area is nearest to the mean."""
    sizes = loader.batch_sizes[:-1] or loader.batch_sizes
    mean = sum(height * width for height, width in sizes) / len(sizes)
    return min(sizes, key=lambda size: abs(size[0] * size[1] - mean))
