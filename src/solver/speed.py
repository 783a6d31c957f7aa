# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a run that make steps faster and leave the numbers alone, up to rounding."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from ..core.config import Config
from ..core.errors import ConfigError
from ..data.collate import CollateFunction

logger = logging.getLogger(__name__)

COMPILED = ("backbone", "encoder")
"""Parts of a detector whose shapes depend on the size of the images alone. A decoder in training has as many queries as
the batch has boxes, and would be compiled anew nearly every step."""
SIZES = 32
"""Compiled forms that are kept per part: more than multi-scale training has sizes. Further shapes stay eager."""
CUDA_GRAPH = "reduce-overhead"
"""The mode of ``torch.compile`` that records CUDA graphs."""


def use_channels_last(model: nn.Module) -> None:
    """Store convolution weights with their channels innermost; feature maps follow from the first convolution on."""
    model.to(memory_format=torch.channels_last)


def compile_for(config: Config, model: nn.Module, device: torch.device, collate: CollateFunction) -> None:
    """Do what a run's setting ``compile`` asks for.

    Args:
        model: in training, on its device; compiled in place after its copies are made.
        collate: of the training data: says whether the sizes of batches change.

    Raises:
        ConfigError: CUDA graphs where there is no GPU, where sizes change, or where gradients are accumulated.
    """
    setting = config.settings.compile
    if setting == CUDA_GRAPH:
        _check_cuda_graph(config, device, collate)
    if setting and collate.takes_any_size:
        logger.warning(
            "compile: %s makes batches of any size, each of which would be compiled: the run goes on without",
            type(collate).__name__,
        )
    elif setting:
        compile_parts(model, mode=CUDA_GRAPH if setting == CUDA_GRAPH else None)


def _check_cuda_graph(config: Config, device: torch.device, collate: CollateFunction) -> None:
    """A graph replays one step as it was recorded: on a GPU, with tensors of one size, gradients made afresh."""
    place = f"{config.origins['compile']}: compile: {CUDA_GRAPH} records CUDA graphs, "
    if device.type != "cuda":
        raise ConfigError(f"{place}but the run uses {device}: write compile: True, or give a GPU with -d cuda")
    if collate.takes_any_size or collate.size_at(0, 0, 0) is not None:
        raise ConfigError(
            f"{place}one per size, but the sizes of batches change: write compile: True, or turn multi-scale off with "
            "-u train_dataloader.collate_fn.base_size_repeat=null"
        )
    if config.settings.accumulate_steps > 1:
        raise ConfigError(
            f"{place}whose gradients cannot be added up over {config.settings.accumulate_steps} batches: write "
            "compile: True, or accumulate_steps: 1"
        )


def compile_parts(model: nn.Module, *, backend: str | Callable[..., Any] = "inductor", mode: str | None = None) -> bool:
    """Compile backbone and encoder in place for training; names in checkpoints stay as they are, copies are eager.

    Args:
        backend, mode: of ``torch.compile``.

    Returns: whether there was something to compile and it works here; otherwise a warning says why not, and the model
        is as it was.
    """
    parts = {name: part for name in COMPILED if (part := model._modules.get(name)) is not None}
    if not parts:
        logger.warning("compile: the model has no part named %s, so nothing is compiled", " or ".join(COMPILED))
        return False
    problem = _problem(next(model.parameters()).device, backend)
    if problem is not None:
        logger.warning("compile: torch.compile does not work here (%s): the run goes on without", problem)
        return False
    for name, part in parts.items():
        part.__dict__["forward"] = _CompiledForward(name, part, {"backend": backend, "mode": mode})
    return True


def runs_compiled(model: nn.Module) -> bool:
    """Whether the parts that :func:`compile_parts` took on have been compiled and none of them failed."""
    forwards = [model._modules[name].__dict__.get("forward") for name in COMPILED if name in model._modules]
    taken = [forward for forward in forwards if isinstance(forward, _CompiledForward)]
    return bool(taken) and all(forward.forms for forward in taken)


class _CompiledForward:
    """Stands in for the ``forward`` of a part: one compiled form for each size it meets in training.

    Where one cannot be compiled the part is eager from then on, with a warning. Evaluations and copies are eager.
    """

    def __init__(self, name: str, part: nn.Module, options: dict[str, Any]) -> None:
        self.name, self.part, self.options = name, part, options
        self.eager = part.forward
        self.forms: dict[Any, Callable[..., Any]] = {}
        self.broken = self.full = False

    def __call__(self, maps: Tensor | list[Tensor]) -> Any:
        if self.broken or not self.part.training:
            return self.eager(maps)
        size = tuple(tuple(level.shape) for level in ([maps] if isinstance(maps, Tensor) else maps))
        form = self.forms.get(size)
        if form is not None:
            return form(maps)
        if len(self.forms) < SIZES:
            return self._first(size, maps)
        if not self.full:
            self.full = True
            logger.warning("compile: %s has met %d sizes of batches: further ones run eagerly", self.name, SIZES)
        return self.eager(maps)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.eager, memo)

    def _first(self, size: Any, maps: Tensor | list[Tensor]) -> Any:
        """Compile for a size and run that; eager from now on where it fails."""
        before = [buffer.clone() for buffer in self.part.buffers()]
        form = torch.compile(self._entry(size), dynamic=False, **self.options)
        try:
            output = form(maps)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ImportError, OSError) as error:
            problem = _first_line(error)
        else:
            self.forms[size] = form
            return output
        logger.warning("compile: %s cannot be compiled (%s): it runs eagerly from here on", self.name, problem)
        self.broken = True
        self.forms.clear()
        with torch.no_grad():
            for buffer, value in zip(self.part.buffers(), before):  # statistics, where it failed half way
                buffer.copy_(value)
        return self.eager(maps)

    def _entry(self, size: Any) -> Callable[..., Any]:
        """A function for one size. Torch counts what it compiled per code object and stops at 8: so each has its own.

        (Newer versions of torch take a limit; 2.6 does not.)
        """
        eager = self.eager

        def entry(maps: Tensor | list[Tensor]) -> Any:
            return eager(maps)

        code = entry.__code__.replace(co_name=f"{self.name}_{'x'.join(map(str, size[0]))}")
        return FunctionType(code, entry.__globals__, code.co_name, None, entry.__closure__)


def _problem(device: torch.device, backend: str | Callable[..., Any]) -> str | None:
    """Why a small function cannot be compiled for a device; None if it can. A missing C++ compiler shows here."""
    try:
        values = torch.ones(3, device=device, requires_grad=True)
        compiled = torch.compile(lambda values: values.sin() + 1, dynamic=False, backend=backend)
        torch.autograd.backward(compiled(values).sum())
    except (RuntimeError, ImportError, OSError) as error:
        return _first_line(error)
    return None


def _first_line(error: BaseException) -> str:
    """Of a message; torch begins its own with the name of the backend alone."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.endswith(" raised:")]
    return lines[0] if lines else type(error).__name__
