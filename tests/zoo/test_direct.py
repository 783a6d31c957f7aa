# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR's box head on the same decoder, and the other switches of the roadmap."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import isdfine
from builders import TINY_DECODER, micro_sections, write_coco
from golden_cases import fill
from isdfine.core.checkpoint.weights import load_weights
from isdfine.losses.criterion import DFINECriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.boxes import inverse_sigmoid
from isdfine.nn.types import DetectorOutput, Predictions, Want
from isdfine.solver.fit import fit
from isdfine.solver.training import Training
from isdfine.zoo.dfine.decoder import DFINETransformer

SETTINGS = TINY_DECODER
RT_DETR = {"box_head": "direct", "merge": "residual", "cross_attn_projections": True}
CHANGES: list[dict[str, Any]] = [
    {"box_head": "direct"},
    {"merge": "residual"},
    {"cross_attn_projections": True},
    RT_DETR,
]


def build(**more: Any) -> DFINETransformer:
    torch.manual_seed(0)
    return fill.fill_module(DFINETransformer(5, **(SETTINGS | more)))


def features(batch: int = 2) -> list[Tensor]:
    torch.manual_seed(5)
    return [torch.randn(batch, 16, 64 // stride, 64 // stride) for stride in (8, 16)]


def targets(counts: tuple[int, ...] = (3, 1)) -> list[dict[str, Tensor]]:
    return [{key: torch.from_numpy(value) for key, value in one.items()} for one in fill.random_targets(7, counts, 5)]


def criterion() -> DFINECriterion:
    weights = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    matcher = HungarianMatcher({"cost_class": 2, "cost_bbox": 5, "cost_giou": 2}, alpha=0.25, gamma=2.0)
    return DFINECriterion(matcher, weights, ["vfl", "boxes"], 0.75, 2.0, num_classes=5, use_uni_set=False)


def test_the_output_has_no_distributions() -> None:
    output = build(box_head="direct")(features(), targets())
    assert isinstance(output, DetectorOutput)
    assert output.up is output.reg_scale is output.initial is None
    dn = output.groups["dn"]
    assert dn.initial is None
    assert len(output.layers) == len(dn.layers) == 3
    for one in (*output.layers, *dn.layers):
        assert one.edge_logits is one.initial_boxes is None
    assert output.layers[0].boxes.shape == (2, 8, 4)
    assert dn.layers[0].logits.shape == (2, 12, 5)
    assert output.proposals is not None


def test_names_are_those_of_rt_detr() -> None:
    names = {name.split(".")[0] for name in build(**RT_DETR).state_dict()}
    assert names == {
        *("anchors", "valid_mask", "decoder", "input_proj", "denoising_class_embed", "query_pos_head", "enc_output"),
        *("enc_score_head", "enc_bbox_head", "dec_score_head", "dec_bbox_head"),
    }
    model = build(**RT_DETR)
    assert {name.split(".")[1] for name in model.state_dict() if name.startswith("decoder.")} == {"layers"}
    assert model.box_head.layers[2].layers[2].weight.shape == (4, 16)
    assert model.projection[0].conv.weight.shape == (16, 16, 1, 1)
    assert not dict(build(box_head="direct").projection.named_parameters())


def test_every_layer_moves_the_box_of_the_layer_before() -> None:
    model = build(box_head="direct", num_denoising=0)
    seen = []
    for head in model.box_head.layers:
        head.register_forward_hook(lambda _, given, offsets: seen.append(offsets))
    output = model(features())
    start = output.proposals.boxes
    for layer, offsets in zip(output.layers, seen):
        start = (offsets + inverse_sigmoid(start)).sigmoid()
        torch.testing.assert_close(layer.boxes, start, atol=1e-6, rtol=1e-5)


def test_look_forward_twice() -> None:
    """The box of layer l + 1 teaches the head of layer l, but not that of l - 1; sampling carries no gradient."""
    model = build(box_head="direct", num_denoising=0)
    output = model(features())
    output.layers[2].boxes.sum().backward()
    reached = [head.layers[2].weight.grad is not None for head in model.box_head.layers]
    assert reached == [False, True, True]
    assert model.queries.box.layers[0].weight.grad is None


def test_the_position_is_of_the_current_box_and_not_clamped() -> None:
    model = build(box_head="direct", num_denoising=0)
    torch.nn.init.constant_(model.position.layers[1].bias, 100.0)
    seen: list[tuple[Tensor, ...]] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append(given))
    output = model(features())
    references, positions = [given[1] for given in seen], [given[2] for given in seen]
    assert min(one.min() for one in positions) > 50
    assert not any(one.requires_grad for one in references)
    torch.testing.assert_close(references[2], output.layers[1].boxes)


def test_eval_answers_with_layer_eval_idx() -> None:
    model = build(box_head="direct", eval_idx=1, num_denoising=0)
    training = model(features())
    model.eval()
    model.layers[2].register_forward_hook(lambda *_: pytest.fail("layer 2 ran in eval mode"))
    answer = model(features())
    assert isinstance(answer, Predictions)
    torch.testing.assert_close(answer.logits, training.layers[1].logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer.boxes, training.layers[1].boxes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", CHANGES)
def test_the_deployed_form_answers_the_same(change: dict[str, Any]) -> None:
    model = build(eval_idx=1, **change).eval()
    fused = model.fused()
    with torch.no_grad():
        want, got, again = model(features()), fused(features()), fused.fused()(features())
    assert torch.equal(want.logits, got.logits)
    assert torch.equal(want.boxes, got.boxes)
    assert torch.equal(want.boxes, again.boxes)
    assert set(fused.state_dict()) < set(model.state_dict())
    assert not [name for name in fused.state_dict() if name.startswith(("decoder.layers.2", "dec_bbox_head.2"))]
    with pytest.raises(RuntimeError, match="fused form has no training heads"):
        fused.train()(features(), targets())


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("aux_loss", [True, False])
def test_every_parameter_that_trains_gets_a_gradient(change: dict[str, Any], aux_loss: bool) -> None:
    model = build(aux_loss=aux_loss, num_layers=4, **change)
    output = model(features(), targets())
    assert len(output.layers) == (4 if aux_loss else 1)
    losses = criterion()(output, targets())
    sum(losses.values(), torch.zeros(())).backward()
    assert not [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert all(one.grad.isfinite().all() for one in model.parameters() if one.grad is not None)
    assert ("loss_bbox_aux_2" in losses) == aux_loss


def test_losses_have_the_names_of_rt_detr() -> None:
    losses = criterion()(build(**RT_DETR)(features(), targets()), targets())
    suffixes = {name.removeprefix("loss_vfl") for name in losses if name.startswith("loss_vfl")}
    assert suffixes == {"", "_aux_0", "_aux_1", "_enc_0", "_dn_0", "_dn_1", "_dn_2"}
    assert {name.split("_")[1] for name in losses} == {"vfl", "bbox", "giou"}


def test_a_batch_without_boxes_trains() -> None:
    model = build(box_head="direct")
    losses = criterion()(model(features(), targets((0, 0))), targets((0, 0)))
    total = sum(losses.values(), torch.zeros(()))
    total.backward()
    assert total.isfinite()


def test_wide_layers_have_wide_parts() -> None:
    model = build(eval_idx=0, layer_scale=2, **RT_DETR)
    assert [one.cross_attn.value_proj.in_features for one in model.layers] == [16, 32, 32]
    assert [one.norm2.normalized_shape for one in model.layers] == [(16,), (32,), (32,)]
    assert [head.layers[0].in_features for head in model.box_head.layers] == [16, 32, 32]
    sum(criterion()(model(features(), targets()), targets()).values(), torch.zeros(())).backward()


def test_attention_is_captured() -> None:
    model = build(**RT_DETR)
    want = Want(attention=frozenset({"self_attention", "cross_attention"}), layers=True)
    attention = model(features(), targets(), want=want).attention
    assert attention is not None
    assert len(attention.queries) == len(attention.point_logits) == 3
    assert attention.point_logits[0].shape == (2, 20, 4, 3)


def test_bins_are_where_the_arguments_say() -> None:
    model = build(up=0.25, reg_scale=8, reg_max=8)
    assert model.box_head.bins()[[0, 1, 7, 8]].tolist() == pytest.approx([-4, -2, 2, 4], abs=1e-6)
    assert (model.box_head.bins.up.item(), model.box_head.bins.reg_scale.item()) == (0.25, 8)
    nearly = build(reg_scale=0.01, reg_max=8).box_head.bins()[1:8].diff()
    torch.testing.assert_close(nearly, nearly.mean().expand(6), rtol=5e-3, atol=0)


def test_bins_can_be_learned() -> None:
    model = build(learnable_bins=True, reg_scale=4, reg_max=8)
    assert model.box_head.bins.reg_scale.dtype == torch.float32
    assert model.state_dict(keep_vars=True)["decoder.up"] is model.box_head.bins.up
    output = model(features(), targets())
    output.layers[-1].boxes.square().sum().backward()
    assert model.box_head.bins.up.grad.abs().item() > 0
    assert model.box_head.bins.reg_scale.grad.abs().item() > 0
    assert not build().box_head.bins.up.requires_grad
    fused = model.eval().fused()
    assert not fused.box_head.bins().requires_grad
    with torch.no_grad():
        assert torch.equal(fused(features()).boxes, model(features()).boxes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box_head": "dfl"}, "box_head 'dfl' is unknown: choose one of fdr, direct"),
        ({"merge": "sum"}, "merge 'sum' is unknown: choose one of gate, residual"),
        ({"up": 0}, "up is 0: half the width of the inner bins must be above 0, 0.5 in official files"),
        ({"reg_scale": -4}, "reg_scale is -4: no bins would have any width"),
        ({"reg_scale": 0}, "reg_scale is 0: no bins would have any width; for bins of equal width give a small one"),
    ],
)
def test_unknown_choices(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**change)


def test_a_run_of_rt_detr(tmp_path: Path) -> None:
    """From the YAML file to weights: encoder, decoder and criterion of the roadmap's first row, in micro size."""
    sections = micro_sections(write_coco(tmp_path / "data", images=4), tmp_path / "run")
    sections["DFINETransformer"] |= RT_DETR
    sections["HybridEncoder"] |= {"fusion": "csp", "downsample": "conv"}
    weights = {"loss_vfl": 1, "loss_bbox": 5, "loss_giou": 2}
    sections["DFINECriterion"] |= {"losses": ["vfl", "boxes"], "weight_dict": weights, "use_uni_set": False}
    sections |= {"distillers": [], "epoches": 1, "num_visualized": 0}
    (tmp_path / "micro.yml").write_text(yaml.safe_dump(sections))
    config = isdfine.load_config(tmp_path / "micro.yml", ["HGNetv2.pretrained=False"])
    run = Training(config)
    fit(run)
    model = config.with_values({"num_classes": 2}).build("model").eval()
    assert load_weights(model, tmp_path / "run" / "last.pth").complete
    fused, images = isdfine.fuse(model), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(fused(images).boxes, model(images).boxes, atol=1e-5, rtol=0)
