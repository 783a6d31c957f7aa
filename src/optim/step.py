# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""One optimizer step, from a loss to new weights, in the official order."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..core.errors import ConfigError
from .ema import ModelEMA, NoEma
from .precision import Precision
from .schedule import Schedule


class Optim:
    """Optimizer, schedule, EMA and precision of a run, stepped together.

    Gradients of ``accumulate_steps`` batches are averaged before each optimizer step. A window never reaches over the
    end of an epoch: tell it the batches ahead with :meth:`start_epoch`, and the last window averages what is left.

    Args:
        accumulate_steps: batches per optimizer step, at least 1.
        on_nonfinite: what happens where the gradient norm is NaN or infinite. ``"stop"`` takes the step as it is and
            leaves the check to whoever reads the returned norm with the next log line, so that no step waits for the
            device. ``"skip"`` reads the norm at every step (one wait for the device) and leaves the weights as they
            are. Under fp16 the scaler leaves such steps out in both cases, as part of finding its scale.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        ema: ModelEMA | NoEma,
        precision: Precision,
        *,
        accumulate_steps: int = 1,
        on_nonfinite: Literal["stop", "skip"] = "stop",
    ) -> None:
        if accumulate_steps < 1:
            raise ConfigError(
                f"accumulate_steps is {accumulate_steps}: give the batches per optimizer step, at least 1"
            )
        if on_nonfinite not in ("stop", "skip"):
            raise ConfigError(f"on_nonfinite is {on_nonfinite!r}: choose stop or skip")
        self.optimizer = optimizer
        self.schedule = schedule
        self.ema = ema
        self.precision = precision
        self.accumulate_steps = accumulate_steps
        self.skipped = 0
        self._skip_nonfinite = on_nonfinite == "skip"
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._batches_ahead: int | None = None
        self._window = 0
        self._done = 0

    def start_epoch(self, num_batches: int) -> None:
        """Say how many batches the epoch still has (fewer than its length after a resume), and drop a half window."""
        self._batches_ahead = num_batches
        self._done = 0
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def applies_next(self) -> bool:
        """Whether the next :meth:`step` completes a window, and so changes the weights."""
        return self._done + 1 >= self._window_size()

    def sync_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Context for forward and backward: gradients cross the ranks only in the batch that completes a window."""
        if isinstance(model, DistributedDataParallel) and not self.applies_next:
            return model.no_sync()
        return contextlib.nullcontext()

    def step(self, loss: Tensor, max_norm: float = 0.0) -> Tensor | None:
        """Backward pass; at the end of a window also clip, optimizer step, zero gradients, EMA update, schedule.

        Args:
            loss: scalar total of one batch, on the device.
            max_norm: largest global L2 norm of the gradients; 0 for no clipping.

        Returns:
            The gradients' global norm before clipping, a scalar on the device (not waited for);
            ``None`` inside a window.
        """
        self._window = self._window_size()
        self.precision.backward(loss if self._window == 1 else loss / self._window)
        self._done += 1
        if self._batches_ahead is not None:
            self._batches_ahead -= 1
        if self._done < self._window:
            return None
        self._done = 0
        self.precision.unscale(self.optimizer)
        grad_norm = self._clip(max_norm)
        if self._skip_nonfinite and not bool(torch.isfinite(grad_norm)):
            self.skipped += 1
            self.precision.skip()
        else:
            self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        self.schedule.advance()
        return grad_norm

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict(),
            "precision": self.precision.state_dict(),
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, taken between windows."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.ema.load_state_dict(state["ema"])
        self.precision.load_state_dict(state["precision"])
        self.skipped = int(state.get("skipped", 0))

    def _window_size(self) -> int:
        """Batches of the present window: decided by its first batch."""
        if self._done > 0:
            return self._window
        if self._batches_ahead is None or self._batches_ahead < 1:
            return self.accumulate_steps
        return min(self.accumulate_steps, self._batches_ahead)

    def _clip(self, max_norm: float) -> Tensor:
        if max_norm > 0:
            return nn.utils.clip_grad_norm_(self._parameters, max_norm)
        return nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
