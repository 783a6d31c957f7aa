# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch

from isdfine.zoo.decoder_layer import HALF_MAX, DecoderLayer
from isdfine.zoo.inputs import DecoderInputs


def layer(**more: object) -> DecoderLayer:
    torch.manual_seed(0)
    return DecoderLayer(16, 4, 24, num_levels=2, num_points=[2, 1], **more)


def inputs() -> tuple:
    torch.manual_seed(1)
    content, position = torch.randn(2, 2, 5, 16)
    values = [torch.randn(2, 16, 4, 6), torch.randn(2, 16, 2, 3)]
    return content, torch.rand(2, 5, 4), position, DecoderInputs(values, None, None, None)


def test_official_names() -> None:
    assert {name.split(".")[0] for name in layer().state_dict()} == {
        "self_attn",
        "norm1",
        "cross_attn",
        "gateway",
        "linear1",
        "linear2",
        "norm3",
    }


def test_blocked_queries_have_no_influence() -> None:
    one, (content, references, position, given) = layer().eval(), inputs()
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[:3, 3:] = True
    changed = content.clone()
    changed[:, 3:] += 1
    given = replace(given, attn_mask=mask)
    before, after = (one(x, references, position, given) for x in (content, changed))
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_dropout_acts_in_training_only() -> None:
    one, given = layer(dropout=0.5), inputs()
    assert not torch.equal(one(*given), one(*given))
    one.eval()
    assert torch.equal(one(*given), one(*given))


def test_sum_before_the_last_norm_is_kept_in_half_range() -> None:
    one = layer().eval()
    seen = []
    one.norm3.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.nn.init.constant_(one.linear2.bias, 1e9)
    one(*inputs())
    assert seen[0].max() == HALF_MAX


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="no activation called 'relu7': choose one of"):
        layer(act="relu7")


def test_rt_detr_names() -> None:
    names = {name.rsplit(".", 1)[0] for name in layer(merge="residual", projections=True).state_dict()}
    assert {"norm1", "norm2", "norm3", "cross_attn.value_proj", "cross_attn.output_proj"} <= names
    assert not [name for name in names if name.startswith("gateway")]


def test_the_merge_gets_the_query_and_what_it_read() -> None:
    one = layer(merge="residual").eval()
    seen = []
    one.norm2.register_forward_hook(lambda _, given, found: seen.append((*given, found)))
    one(*inputs())
    ((query, update, merged),) = seen
    torch.testing.assert_close(merged, torch.nn.functional.layer_norm(query + update, (16,)))


def test_unknown_merge() -> None:
    with pytest.raises(ValueError, match="merge 'sum' is unknown: choose one of gate, residual"):
        layer(merge="sum")
