# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What reaches torch's dispatcher while something runs."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"})
"""Operators that wait for the device, besides copies from a GPU to the host."""


class Operators(TorchDispatchMode):
    """Counts operators, views included, and those among them that wait for the device."""

    count = waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        name, given = str(func).split(".")[1], kwargs or {}
        to_host = name == "_to_copy" and args[0].is_cuda and str(given.get("device", "cuda")) == "cpu"
        self.waits += to_host or name in WAITS
        return func(*args, **given)
