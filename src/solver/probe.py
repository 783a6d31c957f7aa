# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Real training steps on dummy images, beside the run: how long they take and how much memory they need.

A probe builds a model, an optimiser and an average of its own and gives back every random state, so that the run that
follows is, to the bit, the run without it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ..core import dist
from ..core.config import Config, without_initial_weights
from ..data.collate import Size
from ..data.loader import DataLoader
from ..distill.diagnostics import Diagnostics
from ..nn.padding import IMAGE_SIZE
from ..optim.precision import GradScaler, Precision
from .checkpoint import rng_state, set_rng_state
from .solver import build_model
from .train import train_one_epoch
from .trained import Trained, build_optim


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """What happens inside leaves no trace: random states come back, no rank is waited for, nothing is logged twice."""
    state, ours = rng_state(), logging.getLogger("isdfine")
    before = ours.level
    ours.setLevel(logging.ERROR)
    try:
        with dist.alone():
            yield
    finally:
        ours.setLevel(before)
        set_rng_state(state)


class Probe:
    """One training step of a config, on demand. Use it inside :func:`aside`.

    Args:
        config: with model, criterion, optimizer and ``num_classes``.
        device: of the run.
        loader: of the training data, on any device: it says how many boxes images have, and whether they are padded.
    """

    def __init__(self, config: Config, device: torch.device, loader: DataLoader) -> None:
        self.device = device
        self.boxes = boxes_of(loader)
        self.padded = loader.collate_fn.takes_any_size
        self._others = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        config = without_initial_weights(config)
        self.settings = config.settings
        self.num_classes = int(config.get("num_classes"))
        self.trained = Trained.of(config, build_model(config, device).train(), device, loader.dataset.label_space)
        self._watch = Diagnostics(self.trained.objective.distillers) if self.settings.diagnostics else None
        self.optim, _ = build_optim(config, self.trained, device, len(loader))
        self.optim.accumulate_steps = 1
        self.optim.schedule.base = [0.0] * len(self.optim.schedule.base)  # noise is nothing to learn from
        self.optim.schedule.advance()
        if self.optim.precision.name == "fp16":  # at torch's own first scale it overflows and leaves steps out
            self.optim.precision = Precision("fp16", device, GradScaler(device.type, init_scale=1.0))
        self._make_moments()

    def _make_moments(self) -> None:
        """Optimiser and average get theirs in the first step, which would else differ from the steps after it."""
        for group in self.optim.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        self.optim.optimizer.step()
        self.optim.optimizer.zero_grad(set_to_none=True)
        self.optim.ema.update()

    def step(self, images: Tensor, targets: list[dict[str, Tensor]]) -> None:
        """Forward, backward, optimiser, average: the loop that trains."""
        train_one_epoch(
            partial(self.trained, watch=self._watch),
            [(images, targets)],
            self.optim,
            max_norm=self.settings.clip_max_norm,
            window=contextlib.nullcontext,
            on_step=lambda report: None,
        )

    def seconds(self, batch: int, size: Size) -> float:
        """Wall time of one step."""
        images, targets = self.batch(batch, size)
        self._wait()
        begin = time.perf_counter()
        self.step(images, targets)
        self._wait()
        return time.perf_counter() - begin

    def peak_bytes(self, batch: int, size: Size) -> int:
        """Most bytes that the run holds in a step: weights (a teacher's too), average, moments, batch, activations.

        A GPU's allocator tells. On a CPU every allocation of the step is recorded as it comes and goes, on top of what
        outlives it.

        Raises:
            torch.OutOfMemoryError: more than there is.
        """
        images, targets = self.batch(batch, size)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.step(images, targets)
            return torch.cuda.max_memory_allocated(self.device) - self._others
        risen = peak_of_allocations(partial(self.step, images, targets))
        batch_bytes = storage_bytes([images, *(tensor for target in targets for tensor in target.values())])
        return risen + batch_bytes + self.held_bytes()

    def held_bytes(self) -> int:
        """Weights, those of a teacher too, average and moments: what outlives a step."""
        parts, states = [self.trained, self.optim.ema.module], self.optim.optimizer.state.values()
        if (lesson := self.trained.objective.lesson) is not None:  # which is no module of what trains
            parts.append(lesson.teacher.model)
        weights = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
        moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        return storage_bytes(weights + moments)

    def batch(self, count: int, size: Size) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Images (B, 3, H, W) of noise and random boxes; the first image is the fullest one."""
        random = torch.Generator().manual_seed(0)
        images = torch.rand(count, 3, *size, generator=random)
        targets = []
        for index in range(count):
            target = dummy_target(self.boxes[min(index, 1)], self.num_classes, random, self.device)
            if self.padded:
                target[IMAGE_SIZE] = torch.tensor(size, dtype=torch.float32, device=self.device)
            targets.append(target)
        return images.to(self.device), targets

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def boxes_of(loader: DataLoader) -> tuple[int, int]:
    """Boxes of the fullest image of a data set, and of its average image, rounded up."""
    counts = loader.dataset.annotations.training_rows().offsets
    per_image = counts[1:] - counts[:-1]
    return (int(per_image.max()), -(-int(per_image.sum()) // len(per_image))) if len(per_image) else (1, 1)


def dummy_boxes(*shape: int, generator: torch.Generator) -> Tensor:
    """(*shape, 4) cxcywh inside the image, sides of 0.05 to 0.3 of it."""
    size = torch.rand(*shape, 2, generator=generator) * 0.25 + 0.05
    centre = size / 2 + torch.rand(*shape, 2, generator=generator) * (1 - size)
    return torch.cat((centre, size), -1)


def dummy_target(count: int, num_classes: int, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """Boxes (T, 4) and labels (T,) of one image."""
    boxes = dummy_boxes(count, generator=generator)
    labels = torch.randint(num_classes, (count,), generator=generator)
    return {"boxes": boxes.to(device), "labels": labels.to(device)}


def peak_of_allocations(work: Callable[[], object]) -> int:
    """Most bytes that a call holds at once, beyond what was there before; CPU.

    The allocator reports every block as it comes and goes, temporaries inside operators included (libraries that have
    memory of their own, as oneDNN's scratch pads, are not seen).
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    results = recorded.profiler.kineto_results if recorded.profiler is not None else None
    assert results is not None, "the profiler has stopped, so it has results"
    events: list[Any] = [event for event in results.events() if event.name() == "[memory]"]  # torch types them partly
    changes: Iterator[int] = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(accumulate(changes, initial=0))


def storage_bytes(tensors: Sequence[Tensor]) -> int:
    """What tensors hold in memory, each storage once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
