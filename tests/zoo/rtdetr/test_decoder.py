# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR with distributions in place of offsets, by arguments alone."""

import pytest
import torch
from torch import nn

from isdfine.nn.types import DetectorOutput
from isdfine.zoo.heads import LocationQualityEstimator
from isdfine.zoo.rtdetr.decoder import RTDETRTransformer, RTDETRTransformerv2

SMALL = {
    **{"hidden_dim": 16, "dim_feedforward": 24, "nhead": 2, "num_layers": 3, "num_queries": 12, "num_denoising": 6},
    **{"feat_channels": [16, 16, 16]},
}


def decoder_of(**options: object) -> RTDETRTransformerv2:
    torch.manual_seed(0)
    return RTDETRTransformerv2(3, **{**SMALL, **options})  # type: ignore[arg-type]


def output_of(decoder: nn.Module) -> DetectorOutput:
    torch.manual_seed(1)
    maps = [torch.rand(2, 16, side, side) for side in (8, 4, 2)]
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.6], [0.3, 0.4, 0.2, 0.2]])
    targets = [{"labels": torch.tensor([1, 2]), "boxes": boxes}, {"labels": torch.zeros(0).long(), "boxes": boxes[:0]}]
    output = decoder.train()(maps, targets)
    assert isinstance(output, DetectorOutput)
    return output


def test_a_box_head_touches_no_other_part() -> None:
    direct, refined = (decoder_of(box_head=kind).state_dict() for kind in ("direct", "fdr"))
    changed = {key for key in direct.keys() | refined.keys() if key not in direct or key not in refined}
    changed |= {key for key in direct.keys() & refined.keys() if direct[key].shape != refined[key].shape}
    parts = ("dec_bbox_head", "pre_bbox_head", "up", "reg_scale")
    assert all(any(part in key for part in parts) for key in changed)


def test_fresh_distributions_stand_for_the_first_heads_boxes() -> None:
    output = output_of(decoder_of(box_head="fdr"))
    assert output.initial is not None
    for layer in output.layers:
        torch.testing.assert_close(layer.boxes, output.initial.boxes, atol=1e-5, rtol=1e-4)
        assert layer.edge_logits is not None


@pytest.mark.parametrize("asked", [False, True])
def test_quality_estimators_are_asked_for(asked: bool) -> None:
    decoder = decoder_of(box_head="fdr", quality_estimators=asked)
    assert any(isinstance(part, LocationQualityEstimator) for part in decoder.modules()) == asked
    assert any("lqe_layers" in key for key in decoder.state_dict()) == asked


def test_boxes_are_looked_at_twice() -> None:
    """The loss of a layer reaches the box head of the layer before, and no deeper one."""
    decoder = decoder_of()
    for head in decoder.box_head.layers:
        nn.init.normal_(head.layers[-1].weight)
    output_of(decoder).layers[1].boxes.sum().backward()
    reached = [head.layers[-1].weight.grad is not None for head in decoder.box_head.layers]
    assert reached == [True, True, False]


def test_names_of_the_versions() -> None:
    """The first version's decoder computes its tables, whatever its names, and has no weights of points."""
    first, second = RTDETRTransformer(3, **SMALL).state_dict(), decoder_of().state_dict()
    tables = {key for key in second if key.endswith("num_points_scale")}
    assert set(first) ^ set(second) == tables | {
        f"enc_output.{name}.{kind}" for name in ("0", "1", "proj", "norm") for kind in ("weight", "bias")
    }
    later = RTDETRTransformer(3, version="v2", eval_spatial_size=[64, 64], **SMALL)
    assert set(later.state_dict()) == set(second) - tables
    for state in (first, later.state_dict()):  # both names are read
        first_named = RTDETRTransformer(3, **SMALL)
        first_named.load_state_dict(state)
        assert all(torch.equal(*pair) for pair in zip(first_named.state_dict().values(), state.values()))


def test_estimators_without_distributions_are_refused() -> None:
    with pytest.raises(ValueError, match="quality_estimators need distributions, but box_head is 'direct'"):
        decoder_of(quality_estimators=True)


@pytest.mark.parametrize("name", ["learnt_init_query", "learn_query_content"])
def test_learnt_content_under_either_name(name: str) -> None:
    assert "tgt_embed.weight" in RTDETRTransformer(3, **{name: True}, **SMALL).state_dict()
