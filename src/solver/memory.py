# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory training needs: measured before it starts, or estimated on a CPU; and what to do when it ran out."""

from __future__ import annotations

import copy
import gc
import logging
import shlex
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core import dist
from ..core.errors import ConfigError
from ..data.collate import STRIDE, Size
from ..nn.padding import IMAGE_SIZE, image_sizes_of
from ..optim.precision import Precision
from .probe import Probe, aside, storage_bytes
from .resources import SHARE, free_memory, local_ranks, usable_bytes
from .training import Training

logger = logging.getLogger(__name__)

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
    something that is at least ``held``. So it bends upwards: between measured batches a straight line is never too low,
    and beyond them neither is the line from ``held`` through the last one.
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
    def per_image(self) -> float:
        """Bytes that one image more than the largest measured batch takes."""
        batch, peak = self.points[-1]
        return max(1.0, (peak - self.held) / batch)

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

    def describe(self) -> str:
        """What was measured and what follows, in words."""
        if not self.points:
            return f"not even {_images(1, self.size)} fits into {_gb(self.usable)} of {self.device}"
        measured = ", ".join(f"batch {batch}: {_gb(peak)}" for batch, peak in self.points)
        return (
            f"at {_text(self.size)}, the largest size, {measured}; {_gb(self.per_image)} per further image, "
            f"{_gb(self.usable)} of {self.device} usable: up to {self.fits} images fit"
        )


def measure(probe: Probe, size: Size, usable: int, wanted: int) -> Forecast:
    """Double the batch until it is the wanted one, does not fit, or takes long; the run's state is not touched.

    Args:
        probe: takes the steps.
        size: (height, width) of the images.
        usable: bytes that the run may fill.
        wanted: the batch that is asked about.
    """
    begin = time.perf_counter()
    # Buckets of distributed training hold every gradient once more, whatever the batch.
    several = torch.distributed.is_initialized()
    shared = sum(weight.nbytes for weight in probe.trained.parameters() if weight.requires_grad) if several else 0
    forecast = Forecast(probe.device, size, (), probe.held_bytes() + shared, usable)
    if probe.device.type == "cuda":
        _peak(probe, 1, size)  # libraries take what they keep
    batch = 1
    while (peak := _peak(probe, batch, size)) is not None:
        forecast = replace(forecast, points=(*forecast.points, (batch, peak + shared)))
        if batch >= wanted or time.perf_counter() - begin > SLOW_S:
            break
        batch = min(2 * batch, wanted)
        if forecast.peak(batch) > usable and probe.device.type == "cpu":
            break  # which has no allocator that says no: the system would end the process
    if peak is None and forecast.points:  # what failed does not fit, whatever the line says
        forecast = replace(forecast, usable=min(usable, forecast.peak(batch) - 1))
    return forecast


def measure_run(run: Training, size: Size, wanted: int) -> Forecast:
    """The same for a run, with a model of its own."""
    with aside():
        usable = usable_bytes(run.device)
        forecast = measure(Probe(run.config, run.device, run.train_loader), size, usable, wanted)
    tidy(run.device)
    return forecast


def check_memory(run: Training) -> Forecast | None:
    """Refuse a batch that will not fit, before training starts.

    Steps are measured where ``memory_forecast`` says so; where it says nothing, on GPUs, which take a second for it. On
    a CPU :func:`check_estimate` then looks for what cannot fit.

    Raises:
        ConfigError: with the batch that fits; on all ranks, where it fits not on one of them.
    """
    setting = run.settings.memory_forecast
    if setting is None and run.device.type == "cpu" and not run.settings.compile:  # which keeps less than it computes
        check_estimate(run)
    if not (run.device.type == "cuda" if setting is None else setting):
        return None
    batch = run.train_loader.sampler.batch_size
    forecast = measure_run(run, run.train_loader.largest_size, batch)
    refuse(forecast, batch)
    logger.info("memory: %s", forecast.describe())
    return forecast


def refuse(forecast: Forecast, batch: int) -> None:
    """Raise :class:`ConfigError` where a batch will not fit on this or on any other rank."""
    fits = min(dist.gather_objects(forecast.fits))
    if batch > fits:
        raise ConfigError(
            f"train_dataloader: a batch of {_images(batch, forecast.size)} (the largest size) needs about "
            f"{_gb(forecast.peak(batch))} and {_gb(forecast.usable)} of {forecast.device} are usable: {_remedy(fits)}"
            if forecast.points
            else f"train_dataloader: {forecast.describe()}: {_remedy(fits)}"
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
    size, padded = loader.largest_size, loader.collate_fn.takes_any_size
    tried = size
    while _area(tried) > LARGE:  # the trial itself must fit; what it keeps grows with the area
        tried = (max(STRIDE, tried[0] // 2 // STRIDE * STRIDE), max(STRIDE, tried[1] // 2 // STRIDE * STRIDE))
    larger = _area(size) / _area(tried)
    run.freeze.apply(run.optim.schedule.step)  # what is frozen keeps nothing
    precision = run.optim.precision
    kept, widest = (int(larger * count) for count in activations(run.model, 1, tried, precision, padded=padded))
    estimate = Forecast(run.device, size, ((1, kept),), 0, free)
    if batch > 1 and estimate.peak(batch) >= free / 2:  # near the limit: how much of it does not grow with the batch
        two = int(larger * activations(run.model, 2, tried, precision, padded=padded)[0])
        estimate = replace(estimate, points=((1, kept), (2, two)), held=max(0, 2 * kept - two))
    _judge_training(estimate, batch, free)
    images = min(run.val_loader.sampler.batch_size, len(run.val_loader.dataset))
    shape = run.val_loader.largest_size
    each_image = widest * _area(shape) / _area(size)
    if images * each_image > free:
        raise ConfigError(
            f"val_dataloader: evaluating {_images(images, shape)} at once needs at least {_gb(images * each_image)} "
            f"and {_gb(free)} of memory are free: set val_dataloader.total_batch_size="
            f"{max(1, int(SHARE['cpu'] * free / (4 * each_image))) * dist.world_size()}"
        )


def _judge_training(estimate: Forecast, batch: int, free: int) -> None:
    """Refuse a training batch that cannot fit on some rank; warn where it will hardly fit."""
    kept = estimate.peak(batch)
    need = int(AT_LEAST * kept)
    fits = int(SHARE["cpu"] * free / (ON_TOP * estimate.per_image))
    too_much, much, most = zip(*dist.gather_objects((need > free, ON_TOP * kept > free, fits)))
    what = f"a batch of {_images(batch, estimate.size)} (the largest size) needs"
    if any(too_much):
        raise ConfigError(
            f"train_dataloader: {what} at least {_gb(need)} and {_gb(free)} of memory are free: {_remedy(min(most))}"
        )
    if any(much) and dist.is_main():
        logger.warning(
            "train_dataloader: %s about %s and %s of memory are free, so the system may end the run: %s",
            what, _gb(ON_TOP * kept), _gb(free), _remedy(min(most)),
        )  # fmt: skip


def activations(
    model: nn.Module, batch: int, size: Size, precision: Precision, *, padded: bool = False
) -> tuple[int, int]:
    """Let images pass through a copy of the model, in evaluation mode, and count bytes.

    Both counts are less than a run takes: losses, denoising queries and the kernels' buffers come on top.

    Args:
        model: the run's detector, on a CPU.
        batch: images.
        size: (height, width) of the images.
        precision: of training.
        padded: whether batches say where their images end.

    Returns: what a training step keeps for its backward pass; and input and output of the layer where both together
        are largest, which an evaluation holds at least.
    """
    model = copy.deepcopy(model).eval()
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}
    widest = 0

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other gets its address
        return tensor

    def compare(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal widest
        widest = max(widest, sum(tensor.nbytes for tensor in (*inputs, output) if isinstance(tensor, Tensor)))

    for module in model.modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(compare)
    target = {IMAGE_SIZE: torch.tensor(size, dtype=torch.float32)} if padded else {}
    remember = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.enable_grad(), precision.autocast(), remember:
        model(torch.full((batch, 3, *size), 0.5), **image_sizes_of([target] * batch))
    return storage_bytes([tensor for address, tensor in kept.items() if address not in weights]), widest


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
    fits = measure_run(run, max(size, run.train_loader.largest_size, key=_area), batch).fits
    return ConfigError(
        f"{run.device} ran out of memory in a step of {_images(batch, size)}: "
        f"{_remedy(min(fits, batch - 1))}; continue with "  # the failure knows better than the forecast
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
    each = f" ({fits} for each of {ranks})" if ranks > 1 else ""
    return (
        f"a batch of {fits} fits: set train_dataloader.total_batch_size={fits * ranks}{each}, with accumulate_steps to "
        f"keep the effective batch; or use {ways}"
    )


def _images(batch: int, size: Size) -> str:
    return f"{batch} image{'s' if batch != 1 else ''} of {_text(size)}"


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _area(size: Size) -> int:
    return size[0] * size[1]


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
