# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from isdfine.nn.attention import TransformerEncoder, TransformerEncoderLayer


def layer(**options: object) -> TransformerEncoderLayer:
    torch.manual_seed(0)
    return TransformerEncoderLayer(16, 4, 32, **options)  # type: ignore[arg-type]


def test_it_is_torch_multi_head_attention_in_post_norm() -> None:
    mine = layer().eval()
    torch.manual_seed(1)
    nn.init.normal_(mine.self_attn.in_proj_bias)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(mine.self_attn.state_dict())
    tokens, positions = torch.randn(2, 5, 16), torch.randn(1, 5, 16)
    located = tokens + positions
    middle = mine.norm1(tokens + theirs(located, located, tokens)[0])
    expected = mine.norm2(middle + mine.linear2(nn.functional.gelu(mine.linear1(middle))))
    torch.testing.assert_close(mine(tokens, positions), expected)


def test_dropout_and_activation_act() -> None:
    tokens, positions = torch.randn(2, 5, 16), torch.zeros(1, 5, 16)
    dropping = layer(dropout=0.5)
    assert not torch.equal(dropping(tokens, positions), dropping(tokens, positions))
    torch.testing.assert_close(dropping.eval()(tokens, positions), layer().eval()(tokens, positions))
    assert not torch.allclose(layer(act="relu")(tokens, positions), layer()(tokens, positions))


def test_initialisation_is_the_framework_s() -> None:
    one = layer()
    bound = (6 / (16 + 3 * 16)) ** 0.5  # xavier over the fused projection
    assert 0.9 * bound < one.self_attn.in_proj_weight.abs().max() <= bound
    assert not one.self_attn.in_proj_bias.any()
    assert not one.self_attn.out_proj.bias.any()


def test_heads_must_divide_channels() -> None:
    with pytest.raises(ValueError, match="3 attention heads do not divide 16 channels: change nhead or hidden_dim"):
        TransformerEncoderLayer(16, 3, 32)


def test_layers_are_chained() -> None:
    encoder = TransformerEncoder(TransformerEncoderLayer(16, 4, 32) for _ in range(2)).eval()
    tokens, positions = torch.randn(2, 5, 16), torch.randn(1, 5, 16)
    first, second = encoder.layers
    torch.testing.assert_close(encoder(tokens, positions), second(first(tokens, positions), positions))
    assert TransformerEncoder([])(tokens, positions) is tokens
