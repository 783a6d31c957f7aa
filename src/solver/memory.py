# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory training will need, measured at small batches before it starts; and what to do when it ran out."""

from __future__ import annotations

import gc
import logging
import shlex
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..core import dist
from ..core.config import Config
from ..core.errors import ConfigError
from ..data.collate import STRIDE
from ..data.extent import Size, largest_size
from ..data.loader import DataLoader
from .footprint import activations
from .probe import Probe, aside
from .resources import SHARE, free_memory, local_ranks, usable_bytes
from .training import Training

logger = logging.getLogger(__name__)

AGREE = 0.8
"""Lowest ratio of the two slopes (see :class:`Forecast`) at which larger batches need not be measured."""
AT_LEAST = 0.9
ON_TOP = 1.2
"""What a step takes at least and about, in proportion to the activations of a forward pass in evaluation mode (D-FINE-N
at 640x640: 1.09 by tensors, and kernels' buffers come on top; a model of 16 channels: 0.98)."""
LARGE = 2**21
"""Pixels of the largest image that a forward pass is tried with before a run on a CPU."""
SLOW_S = 10.0
"""Time after which no larger batch is measured."""


@dataclass(frozen=True)
class Forecast:
    """Memory of training steps at one image size, from measured batches.

    A peak is the highest of several moments of a step, and the memory at each grows in proportion to the batch from
    something that is at least ``held``. So it bends upwards: between measured batches a straight line is never too low;
    beyond them the line through the last two is never too high, and the line from ``held`` never too low.
    """

    device: torch.device
    size: Size
    """(height, width) of the images."""
    points: tuple[tuple[int, int], ...]
    """(batch, peak in bytes) as measured; none where not even the smallest step fitted."""
    held: int
    """Bytes of weights, average and moments: what a step of no image would hold."""
    usable: int
    """Bytes that the run may fill."""

    @property
    def settled(self) -> bool:
        """Whether the two lines that hold larger batches between them nearly agree."""
        return len(self.points) > 1 and self._slope >= AGREE * self._steepest

    @property
    def per_image(self) -> float:
        """Bytes that one image more than the largest measured batch takes; the careful figure where it is open."""
        return self._slope if self.settled else self._steepest

    def peak(self, batch: int) -> int:
        """Bytes at the peak of a step."""
        if not self.points:
            return self.usable + 1
        batches, peaks = zip((0, self.held), *self.points)
        return int(np.interp(batch, batches, peaks) + max(0, batch - batches[-1]) * self.per_image)

    @property
    def fits(self) -> int:
        """The largest batch; 0 where not even one image fits."""
        if not self.points:
            return 0
        last, peak = self.points[-1]
        if peak <= self.usable:
            return last + int((self.usable - peak) // self.per_image)
        return sum(self.peak(batch) <= self.usable for batch in range(1, last))

    @property
    def _slope(self) -> float:
        (before, low), (batch, peak) = self.points[-2:]
        return max(1.0, (peak - low) / (batch - before))

    @property
    def _steepest(self) -> float:
        batch, peak = self.points[-1]
        return max(1.0, (peak - self.held) / batch)

    def describe(self) -> str:
        """The line in words."""
        if not self.points:
            return f"not even {_images(1, self.size)} fits into {_gb(self.usable)} of {self.device}"
        measured = ", ".join(f"batch {batch}: {_gb(peak)}" for batch, peak in self.points)
        return (
            f"at {_text(self.size)}, the largest size, {measured}; {_gb(self.per_image)} per further image, "
            f"{_gb(self.usable)} of {self.device} usable: up to {self.fits} images fit"
        )


def forecast(
    config: Config, loader: DataLoader, device: torch.device, size: Size | None = None, batch: int | None = None
) -> Forecast:
    """Measure steps of a model of its own at the largest size that batches get; the run's state is not touched.

    Args:
        config: of the run, with ``num_classes``.
        loader: of the training data.
        device: of the run.
        size: (height, width) of the images; None for the largest.
        batch: images that are asked about; None for the loader's.
    """
    with aside():
        usable = usable_bytes(device)
        probe = Probe(config, device, loader)
        found = measure(probe, size or largest_size(loader), usable, batch or loader.sampler.batch_size)
    del probe
    tidy(device)
    return found


def measure(probe: Probe, size: Size, usable: int, wanted: int) -> Forecast:
    """The same with a probe that is there already: batches of 1, 2, 4, ... until the line is known."""
    begin = time.perf_counter()
    # Buckets of distributed training hold every gradient once more, whatever the batch.
    shared = probe.gradient_bytes() if torch.distributed.is_initialized() else 0
    found = Forecast(probe.device, size, (), probe.held_bytes() + shared, usable)
    if probe.device.type == "cuda":
        _peak(probe, 1, size)  # libraries take what they keep
    batch = 1
    while (peak := _peak(probe, batch, size)) is not None:
        found = replace(found, points=(*found.points, (batch, peak + shared)))
        batch *= 2
        known = found.settled or batch >= 2 * wanted
        if known or found.peak(batch) > usable or time.perf_counter() - begin > SLOW_S:
            break
    return found


def check_memory(run: Training) -> Forecast | None:
    """Refuse a batch that will not fit, before training starts.

    Steps are measured where ``memory_forecast`` says so; where it says nothing, on GPUs, which take a second for it. On
    a CPU :func:`check_estimate` then looks for what cannot fit.

    Raises:
        ConfigError: with the batch that fits; on all ranks, where it fits not on one of them.
    """
    wanted = run.settings.memory_forecast
    if wanted is None and run.device.type == "cpu" and not run.settings.compile:  # which keeps less than it computes
        check_estimate(run)
    if not (run.device.type == "cuda" if wanted is None else wanted):
        return None
    found = forecast(run.config, run.train_loader, run.device)
    refuse(found, run.train_loader.sampler.batch_size)
    logger.info("memory: %s", found.describe())
    return found


def refuse(found: Forecast, batch: int) -> None:
    """Raise :class:`ConfigError` where a batch will not fit on this or on any other rank."""
    fits = min(dist.gather_objects(found.fits))
    if batch > fits:
        raise ConfigError(
            f"train_dataloader: a batch of {_images(batch, found.size)} (the largest size) needs about "
            f"{_gb(found.peak(batch))} and {_gb(found.usable)} of {found.device} are usable: {_remedy(fits)}"
            if found.points
            else f"train_dataloader: {found.describe()}: {_remedy(fits)}"
        )


def check_estimate(run: Training) -> None:
    """Refuse batches that cannot fit into main memory, after a forward pass of one image or two.

    What is counted is less than a run takes, and all memory that is free counts, swap included, so nothing that would
    fit is refused. What will hardly fit is a warning.

    Raises:
        ConfigError: with the batch that should fit.
    """
    loader, free = run.train_loader, free_memory(swap=True) // local_ranks()
    batch = min(loader.sampler.batch_size, -(-len(loader.dataset) // dist.world_size()))
    size, padded = largest_size(loader), loader.collate_fn.takes_any_size
    tried = size
    while _area(tried) > LARGE:  # the trial itself must fit; what it keeps grows with the area
        tried = (max(STRIDE, tried[0] // 2 // STRIDE * STRIDE), max(STRIDE, tried[1] // 2 // STRIDE * STRIDE))
    larger = _area(size) / _area(tried)
    run.freeze.apply(run.optim.schedule.step)  # what rests keeps nothing
    found, widest = Forecast(run.device, size, (), 0, free), 0
    for count in (1, 2):  # the second tells what does not grow with the batch; it matters near the limit only
        one, both = activations(run.model, count, tried, run.optim.precision, padded=padded)
        found, widest = replace(found, points=(*found.points, (count, int(one * larger)))), widest or int(both * larger)
        if batch <= count or found.peak(batch) < free / 2:
            break
    kept = found.peak(batch)
    need = int(AT_LEAST * kept)
    fits = int(SHARE["cpu"] * free / (ON_TOP * found.per_image))
    ranks = dist.gather_objects((need > free, ON_TOP * kept > free, fits))
    too_much, much, fits = any(one[0] for one in ranks), any(one[1] for one in ranks), min(one[2] for one in ranks)
    what = f"a batch of {_images(batch, size)} (the largest size) needs"
    if too_much:
        raise ConfigError(
            f"train_dataloader: {what} at least {_gb(need)} and {_gb(free)} of memory are free: {_remedy(fits)}"
        )
    if much and dist.is_main():
        logger.warning(
            "train_dataloader: %s about %s and %s of memory are free, so the system may end the run: %s",
            what, _gb(ON_TOP * kept), _gb(free), _remedy(fits),
        )  # fmt: skip
    images = min(run.val_loader.sampler.batch_size, len(run.val_loader.dataset))
    shape = largest_size(run.val_loader)
    each_image = widest * _area(shape) / _area(size)
    if images * each_image > free:
        raise ConfigError(
            f"val_dataloader: evaluating {_images(images, shape)} at once needs at least {_gb(images * each_image)} "
            f"and {_gb(free)} of memory are free: set val_dataloader.total_batch_size="
            f"{max(1, int(SHARE['cpu'] * free / (4 * each_image))) * dist.world_size()}"
        )


def out_of_memory(run: Training) -> ConfigError:
    """One line about a step that ran out of memory: its size, its batch, and the batch that should fit.

    Call it when the error is handled, so that what the step held can be given back.
    """
    shape = run.batch_shape
    if shape is None:
        return ConfigError(
            f"{run.device} ran out of memory outside training steps: lower val_dataloader.total_batch_size "
            f"({run.val_loader.sampler.batch_size} images for each process), or set eval_precision: bf16"
        )
    batch, size = shape[0], (shape[2], shape[3])
    run.optim.optimizer.zero_grad(set_to_none=True)
    tidy(run.device)
    found = forecast(
        run.config, run.train_loader, run.device, max(size, largest_size(run.train_loader), key=_area), batch
    )
    fits = min(found.fits, batch - 1)  # the failure knows better
    return ConfigError(
        f"{run.device} ran out of memory in a step of {_images(batch, size)}: {_remedy(fits)}; continue with "
        f"-r {shlex.quote(str(run.folder.path))} where a checkpoint was written"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed. A CPU's allocator has no error class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def tidy(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _peak(probe: Probe, batch: int, size: Size) -> int | None:
    """None where it does not fit."""
    try:
        return probe.peak_bytes(batch, size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    probe.optim.optimizer.zero_grad(set_to_none=True)
    tidy(probe.device)
    return None


def _remedy(fits: int) -> str:
    ways = "smaller images (input_size), precision: bf16, or a smaller model"
    if fits < 1:
        return f"not even one image fits; use {ways}"
    ranks = dist.world_size()
    total = f"train_dataloader.total_batch_size={fits * ranks}" + (
        f" ({fits} for each of {ranks})" if ranks > 1 else ""
    )
    return f"a batch of {fits} fits: set {total}, with accumulate_steps to keep the effective batch; or use {ways}"


def _images(batch: int, size: Size) -> str:
    return f"{batch} image{'s' if batch != 1 else ''} of {_text(size)}"


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _area(size: Size) -> int:
    return size[0] * size[1]


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
