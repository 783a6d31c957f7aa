# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average (EMA) of a model's weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, ConfigError
from ..core.registry import register

_Place = tuple[nn.Module, str]
"""The module that holds an entry of the state, and the entry's name there."""


@register
class ModelEMA:
    """A smoothed copy of a model: each update turns every floating-point parameter and buffer v into d v + (1 - d) m.

    d = decay * (1 - exp(-t / warmups)) at update t = 1, 2, ... computed on the host from
    the counter, so no update waits for the device. Integer entries keep the value they were copied with.

    Args:
        model: the model in training, on its device, with its final modules (synchronised norms included), not
            wrapped for distributed training.
        decay: limit of d, in [0, 1).
        warmups: updates over which d approaches ``decay``; 0 for a constant d.
        start: calls of :meth:`update` that do nothing at first.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, warmups: int = 1000, start: int = 0) -> None:
        if warmups < 0 or start < 0:
            raise ConfigError(f"ModelEMA: warmups is {warmups} and start is {start}, give 0 or more for both")
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0
        self._warmups = warmups
        self._start = start
        self._skipped = 0
        self._entries = _floating_entries(self.module, model)
        self.set_decay(decay)

    @property
    def decay(self) -> float:
        """Limit of the decay factor; change it with :meth:`set_decay`."""
        return self._decay

    def set_decay(self, decay: float) -> None:
        """Use another decay from the next update on.

        Upstream assigns an attribute that its updates never read; parity with the official two-stage recipe
        therefore means not to call this.
        """
        if not 0 <= decay < 1:
            raise ConfigError(f"the EMA decay is {decay}: give a value of at least 0 and below 1, e.g. 0.9999")
        self._decay = decay

    def factor(self, update: int) -> float:
        """Decay factor d of update number ``update``, counted from 1."""
        if self._warmups == 0:
            return self._decay
        return self._decay * (1 - math.exp(-update / self._warmups))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's present weights; call it after every optimizer step."""
        if self._skipped < self._start:
            self._skipped += 1
            return
        self.updates += 1
        factor = self.factor(self.updates)
        for places in self._entries:
            averaged, current = ([getattr(owner, leaf) for owner, leaf in side] for side in zip(*places))
            _average(averaged, current, factor)

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "updates": self.updates,
            "decay": self._decay,
            "skipped": self._skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, or from an official checkpoint's ``ema`` (which has no decay)."""
        if "module" not in state or "updates" not in state:
            raise CheckpointError(f"the saved EMA has the entries {sorted(state)}: expected module and updates")
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])
        self._skipped = int(state.get("skipped", self._start))
        self.set_decay(state.get("decay", self._decay))


def _average(averaged: list[Tensor], current: list[Tensor], factor: float) -> None:
    """v = d v + (1 - d) m, in a few calls however many entries there are."""
    if _rounds_as_published(averaged[0].device):
        torch._foreach_mul_(averaged, factor)
        torch._foreach_add_(averaged, torch._foreach_mul(current, 1 - factor))
    else:
        torch._foreach_lerp_(averaged, current, 1 - factor)


def _rounds_as_published(device: torch.device) -> bool:
    """Whether a device meets the official trajectories to the bit.

    The other form, v + (1 - d)(m - v), rounds differently, but a GPU goes over its memory once for it, not three times.
    """
    return device.type == "cpu"


def _floating_entries(averaged: nn.Module, model: nn.Module) -> list[list[tuple[_Place, _Place]]]:
    """Where the floating-point state lives, by device and type; an entry stored under two names stands once.

    Places and not tensors, because ``Module.to`` replaces buffers; places and not ``state_dict``, because
    collecting a thousand entries at every step takes several milliseconds.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[_Place, _Place]]] = {}
    seen: set[int] = set()
    for path, owner in averaged.named_modules():
        for leaf, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if leaf in owner._non_persistent_buffers_set or leaf in getattr(owner, "rebuilt_buffers", ()):
                continue  # a table the model computes, equal on both sides; it may hold inf, and inf - inf is NaN
            if tensor is not None and tensor.is_floating_point() and id(tensor) not in seen:
                seen.add(id(tensor))
                place = ((owner, leaf), (model.get_submodule(path), leaf))
                groups.setdefault((tensor.device, tensor.dtype), []).append(place)
    return list(groups.values())


class NoEma:
    """Stands in for :class:`ModelEMA` where a run averages nothing: ``module`` is the model itself."""

    def __init__(self, model: nn.Module) -> None:
        self.module = model
        self.updates = 0
        self.decay = 0.0

    def set_decay(self, decay: float) -> None:
        """Nothing to change."""

    def update(self) -> None:
        """Nothing to do."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
