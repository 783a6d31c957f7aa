# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The device a run, a detector or a benchmark computes on."""

from __future__ import annotations

import os

import torch

from .errors import ConfigError


def pick_device(wanted: str | None) -> torch.device:
    """A device by name; None = this rank's GPU where there is one, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    name = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is {name!r}: give cpu, cuda or cuda:0, or leave it out") from None
    try:
        torch.zeros(
            1, device=device
        ).cpu()  # torch knows the names of devices that it does not have or cannot compute on
    except (RuntimeError, AssertionError, ImportError) as error:
        sees = f" and sees {torch.cuda.device_count()} CUDA devices" if device.type == "cuda" else ""
        raise ConfigError(
            f"device is {name}, but this torch ({torch.__version__}) cannot compute on it here{sees}: "
            "give cpu, or leave it out"
        ) from error
    return device
