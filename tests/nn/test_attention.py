# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from isdfine.nn.attention import QuerySelfAttention


@pytest.mark.parametrize("masked", [False, True])
def test_same_as_multihead_attention(masked: bool) -> None:
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(reference.in_proj_bias)
    attention = QuerySelfAttention(16, 4)
    attention.load_state_dict(reference.state_dict(), strict=True)
    content, position = torch.randn(2, 2, 7, 16)
    blocked = torch.rand(7, 7) > 0.6 if masked else None
    if blocked is not None:
        blocked.fill_diagonal_(False)
    want, _ = reference(content + position, content + position, content, attn_mask=blocked, need_weights=False)
    got = attention(content, position, blocked)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_starts_as_multihead_attention_does() -> None:
    attention = QuerySelfAttention(32, 4)
    assert not attention.in_proj_bias.any()
    assert not attention.out_proj.bias.any()
    bound = (6 / (32 + 96)) ** 0.5  # Xavier over the fused matrix
    assert 0.9 * bound < attention.in_proj_weight.abs().max() <= bound


def test_dropout_acts_in_training_only() -> None:
    attention = QuerySelfAttention(16, 4, dropout=0.5)
    content, position = torch.randn(2, 2, 7, 16)
    assert not torch.equal(attention(content, position), attention(content, position))
    attention.eval()
    assert torch.equal(attention(content, position), attention(content, position))
