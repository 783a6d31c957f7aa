# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Multi-layer perceptron, and activations by the name a config uses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Linear layers with ReLU between them and none after the last.

    Args:
        in_dim, hidden_dim, out_dim: channels before, between and after the layers.
        num_layers: linear layers, at least 1. Parameters are named ``layers.<i>``.

    Shapes: (..., in_dim) -> (..., out_dim).
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        *inner, last = self.layers
        for layer in inner:
            x = F.relu(layer(x))
        x = last(x)
        return x

    def start_at_zero(self) -> MLP:
        """Set the last layer to zero, so that a head starts from "no change"; returns the module itself."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return self


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
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
