# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Mixed precision as one object: autocast and loss scaling, or nothing at all for fp32."""

from __future__ import annotations

import contextlib
import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..core.errors import ConfigError
from ..core.registry import register

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@register
class GradScaler(torch.amp.GradScaler):
    """``torch.amp.GradScaler`` for the ``scaler`` section of a config; the arguments are torch's.

    ``device`` is the run's device type; by default CUDA where it is available.
    """

    def __init__(self, device: str | None = None, **options: Any) -> None:
        super().__init__(device or ("cuda" if torch.cuda.is_available() else "cpu"), **options)


class Precision:
    """How numbers are stored in the forward pass, and how gradients survive it.

    Args:
        name: ``fp32`` (does nothing), ``bf16`` (autocast), ``fp16`` (autocast and loss scaling).
        device: the run's device or device type.
        scaler: scaler for fp16; by default one with torch's values. Unused by the other two.

    Raises:
        ConfigError: an unknown name, or a device that cannot run it.
    """

    def __init__(self, name: str, device: str | torch.device, scaler: GradScaler | None = None) -> None:
        if name not in _DTYPES:
            raise ConfigError(f"precision is {name!r}: choose one of {', '.join(_DTYPES)}")
        self.name = name
        self.device_type = torch.device(device).type
        _check_device(name, self.device_type)
        self._scaler = (scaler or GradScaler(device=self.device_type)) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Context for the forward pass; the criterion and the backward pass stay outside."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=_DTYPES[self.name])

    def backward(self, loss: Tensor) -> None:
        """Gradients of a scalar loss, scaled where the precision needs it."""
        torch.autograd.backward(loss if self._scaler is None else self._scaler.scale(loss))

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring the gradients to their true size, for clipping; at most once per optimizer step."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Optimizer step, left out under fp16 where a gradient is not finite; then adapt the scale."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()

    def skip(self) -> None:
        """Adapt the scale after a step that the caller left out."""
        if self._scaler is not None:
            self._scaler.update()

    @property
    def scale(self) -> float:
        """Present loss scale; 1 without a scaler. Reading it waits for the device."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name, "scaler": {} if self._scaler is None else self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a run; from another precision the scaler starts afresh, with a warning."""
        saved = state.get("name", self.name)
        if saved != self.name:
            logger.warning(
                "the checkpoint was trained in %s and continues in %s: numbers will differ", saved, self.name
            )
        if self._scaler is not None and state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])


def _check_device(name: str, device_type: str) -> None:
    if device_type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("the device is cuda but this torch sees no GPU: set device to cpu, or check the driver")
    if name == "bf16" and device_type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"precision bf16: {torch.cuda.get_device_name()} has no bfloat16, choose fp16 or fp32")
