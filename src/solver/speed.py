# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a run that make steps faster and leave the numbers alone, up to rounding."""

from __future__ import annotations

import importlib
import logging

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

COMPILED = ("backbone", "encoder")
"""Parts of a detector whose shapes depend on the size of the images alone. A decoder in training has as many queries as
the batch has boxes, and would be compiled anew nearly every step."""
SIZES = 32
"""Compiled forms that torch keeps per part: more than multi-scale training has sizes."""


def use_channels_last(model: nn.Module) -> None:
    """Store convolution weights with their channels innermost; feature maps follow from the first convolution on."""
    model.to(memory_format=torch.channels_last)


def compile_parts(model: nn.Module, backend: str = "inductor") -> bool:
    """Compile backbone and encoder in place; names in checkpoints stay as they are.

    Args:
        backend: of ``torch.compile``.

    Returns: whether there was something to compile and it works here; otherwise a warning says why not, and the model
        is as it was.
    """
    parts = [part for part in map(model._modules.get, COMPILED) if part is not None]
    if not parts:
        logger.warning("compile: the model has no part named %s, so nothing is compiled", " or ".join(COMPILED))
        return False
    problem = _problem(next(model.parameters()).device, backend)
    if problem is not None:
        logger.warning("compile: torch.compile does not work here (%s): the run goes on without", problem)
        return False
    _allow(SIZES)
    for part in parts:
        part.compile(dynamic=False, backend=backend)
    return True


def _allow(sizes: int) -> None:
    """Let torch keep this many compiled forms of a part; it would stop at 8 and run further sizes eagerly."""
    settings = importlib.import_module("torch._dynamo.config")  # where torch's messages send their readers
    name = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"  # the latter in torch 2.6
    setattr(settings, name, max(sizes, getattr(settings, name)))


def _problem(device: torch.device, backend: str) -> str | None:
    """Why a small function cannot be compiled for a device; None if it can. A missing C++ compiler shows here."""
    try:
        torch.compile(_probe, dynamic=False, backend=backend)(torch.ones(3, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None


def _probe(values: Tensor) -> Tensor:
    return values.sin() + 1
