# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A training step to be measured: time of its phases, operators, waits for the device, peak memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.config import Config
from ..distill.context import DistillationContext
from ..distill.diagnostics import Diagnostics
from ..distill.objective import Objective
from ..nn.types import TRAINING
from ..optim.ema import ModelEMA
from ..optim.precision import Precision
from ..solver.probe import dummy_target, peak_of_allocations, storage_bytes
from ..solver.trained import Trained

WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"})
"""Operators that wait for the device, besides copies from a GPU to the host."""
Batch = tuple[Tensor, list[dict[str, Tensor]]]


class Operators(TorchDispatchMode):
    """Counts operators, views included, and those among them that wait for the device."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.count = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        name, given = str(func).split(".")[1], kwargs or {}
        to_host = name == "_to_copy" and args[0].is_cuda and str(given.get("device", "cuda")) == "cpu"
        self.waits += to_host or name in WAITS
        return func(*args, **given)


class StepClock:
    """Seconds per phase of one step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases: dict[str, float] = {}

    def now(self) -> float:
        """Processor time, or wall time once the device is done."""
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add what happens inside to a phase."""
        begin = self.now()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + self.now() - begin


class Trainee:
    """A model with its optimizer and average, at a learning rate of 0: every step finds the same weights.

    Args:
        config: with ``optimizer``.
        model: of any project.
        precision: fp32 or bf16.
        device: the model is moved there.
        average: keep averaged weights.
    """

    def __init__(
        self, config: Config, model: nn.Module, precision: str, device: torch.device, *, average: bool = True
    ) -> None:
        self.model = model.to(device).train()
        self.device = device
        self.optimizer: Any = config.build("optimizer", model=self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.ema = ModelEMA(self.model) if average else None
        self.precision = Precision(precision, device)
        self.max_norm = config.settings.clip_max_norm

    def update(self, clock: StepClock) -> None:
        """Clipping, optimizer and average, after a backward pass."""
        with clock.phase("optimizer"):
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.max_norm or 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            with clock.phase("ema"):
                self.ema.update()

    def held_bytes(self) -> int:
        """Weights, averaged weights and moments; on a GPU all that torch has given out."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        modules = (self.model, *((self.ema.module,) if self.ema is not None else ()))
        weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return storage_bytes(weights + [value for value in moments if isinstance(value, Tensor)])


class TrainingStep:
    """What isdfine train does with a batch: bytes to numbers, forward, matching, losses, backward, update.

    Args:
        trainee: what is trained.
        objective: losses; None for a model of transformers, which returns its own.
        batch: see ``dummy_batch``.
        format: of images in memory.
        diagnose: also read what diagnostics show.
    """

    def __init__(
        self, trainee: Trainee, objective: Objective | None, batch: Batch, *,
        format: torch.memory_format = torch.contiguous_format, diagnose: bool = False,
    ) -> None:  # fmt: skip
        self.trainee, self.objective, self.batch, self.format = trainee, objective, batch, format
        self.clock = StepClock(trainee.device)
        want = TRAINING if objective is None else Trained(trainee.model, objective, diagnose=diagnose).want
        self._asked = {} if want == TRAINING else {"want": want}
        self._diagnostics = Diagnostics(objective.distillers) if objective is not None and diagnose else None

    def __call__(self) -> dict[str, float]:
        """One step; seconds per phase."""
        self.clock.phases = {}
        with self.clock.phase("data"):
            pixels, targets = self.batch
            images = pixels.to(torch.float32).div_(255).contiguous(memory_format=self.format)
        loss = self._loss(images, targets) if self.objective is not None else self._own_loss(images, targets)
        with self.clock.phase("backward"):
            self.trainee.precision.backward(loss)
        self.trainee.update(self.clock)
        return self.clock.phases

    def _loss(self, images: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        assert self.objective is not None
        if self.objective.lesson is not None:
            context = self._taught(images, targets)
        else:
            with self.clock.phase("forward"), self.trainee.precision.autocast():
                output = self.trainee.model(images, targets, **self._asked)
            with self.clock.phase("matching"):
                context = self.objective.context(output, targets)
        with self.clock.phase("criterion"):
            loss = torch.stack(list(self.objective.terms(context).values())).sum()
        if self._diagnostics is not None:
            self._diagnostics(context)
        return loss

    def _taught(self, images: Tensor, targets: list[dict[str, Tensor]]) -> DistillationContext:
        """Teacher, student and matching, which are one call, at the end of a run, when every method has begun."""
        assert self.objective is not None
        with self.clock.phase("forward"), self.trainee.precision.autocast():
            return self.objective.run(self.trainee.model, images, targets, 1.0, step_number=1)

    def _own_loss(self, images: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """Forward pass and losses are one call there."""
        labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]
        with self.clock.phase("forward"), self.trainee.precision.autocast():
            loss: Tensor = self.trainee.model(pixel_values=images, labels=labels).loss
            return loss

    def counts(self) -> dict[str, int]:
        """Operators of a step and waits among them, backward pass included."""
        with Operators() as seen:
            self()
        return {"operators": seen.count, "waits": seen.waits}

    def peak_bytes(self) -> int:
        """What a step holds at most beyond what outlives it."""
        device = self.trainee.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            self()
            return torch.cuda.max_memory_allocated(device) - before
        return peak_of_allocations(self)


def dummy_batch(images: int, size: tuple[int, int], boxes: int, num_classes: int, device: torch.device) -> Batch:
    """Images (B, 3, H, W) of random bytes, and targets with random boxes.

    Args:
        images: how many.
        size: (height, width) in pixels.
        boxes: per image.
    """
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, *size), dtype=torch.uint8, generator=random)
    targets = [dummy_target(boxes, num_classes, random, device) for _ in range(images)]
    return pixels.to(device), targets
