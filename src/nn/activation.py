# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Activations by the name a config uses."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def activation(name: str) -> nn.Module:
    """A fresh activation layer.

    Args:
        name: a key of ``ACTIVATIONS``, in any case; ``gelu`` is the exact (erf) form.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    try:
        make = ACTIVATIONS[name.lower()]
    except KeyError:
        raise ValueError(f"no activation called {name!r}: choose one of {', '.join(ACTIVATIONS)}") from None
    return make()
