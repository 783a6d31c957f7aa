# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from isdfine.nn.mlp import activation


def test_names_are_read_in_any_case() -> None:
    assert isinstance(activation("ReLU"), nn.ReLU)


def test_gelu_is_the_exact_form() -> None:
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(activation("gelu")(x), 0.5 * x * (1 + torch.erf(x / 2**0.5)))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no activation called 'swish': choose one of gelu, .*silu"):
        activation("swish")
