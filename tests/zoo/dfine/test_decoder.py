# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import copy
import math

import pytest
import torch

from builders import TINY_DECODER
from golden_cases import fill
from isdfine.nn.types import DetectorOutput, Predictions
from isdfine.zoo import denoising
from isdfine.zoo.denoising import DenoisingNoise
from isdfine.zoo.dfine.decoder import DFINETransformer

SETTINGS = TINY_DECODER | {"reg_max": 8, "reg_scale": 4}


def build(**more: object) -> DFINETransformer:
    torch.manual_seed(0)
    return DFINETransformer(5, **(SETTINGS | more))


def filled(**more: object) -> DFINETransformer:
    return fill.fill_module(build(**more))


def features(batch: int = 2, height: int = 64, width: int = 64, channels: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(height + width)
    return [torch.randn(batch, channels, height // stride, width // stride) for stride in (8, 16)]


def targets(counts: tuple[int, ...] = (3, 1)) -> list[dict[str, torch.Tensor]]:
    made = fill.random_targets(7, counts, 5)
    return [{key: torch.from_numpy(value) for key, value in target.items()} for target in made]


def everything(output: DetectorOutput) -> torch.Tensor:
    """A scalar that depends on all predictions of a step."""
    dn = output.groups["dn"]
    sets = [*output.layers, output.initial, output.proposals, *dn.layers, dn.initial]
    return sum(
        (prediction.logits.square().sum() + prediction.boxes.square().sum() for prediction in sets),
        start=torch.zeros(()),
    )


def test_training_output() -> None:
    output = filled()(features(), targets())
    assert len(output.layers) == 3
    for layer in output.layers:
        assert layer.logits.shape == (2, 8, 5)
        assert layer.boxes.shape == layer.initial_boxes.shape == (2, 8, 4)
        assert layer.edge_logits.shape == (2, 8, 36)
    assert output.initial.logits.shape == output.proposals.logits.shape == (2, 8, 5)
    assert output.memory_index.shape == (2, 8)
    assert (output.up.item(), output.reg_scale.item()) == (0.5, 4)
    dn = output.groups["dn"]
    assert len(dn.layers) == 3
    assert dn.group.repeats == 2
    assert dn.layers[0].logits.shape == (2, 12, 5)
    assert dn.initial.boxes.shape == (2, 12, 4)


def test_denoising_leaves_the_matching_queries_alone() -> None:
    model = filled()
    with_dn = model(features(), targets())
    without = model(features(), targets((0, 0)))
    assert without.groups["dn"].layers[0].logits.shape == (2, 0, 5)
    assert without.groups["dn"].group.repeats == 0
    for layer, other in zip(with_dn.layers, without.layers):
        torch.testing.assert_close(layer.logits, other.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer.boxes, other.boxes, atol=1e-5, rtol=1e-5)


def test_permuted_targets_permute_the_denoising_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = DenoisingNoise(None, None, None, None)
    monkeypatch.setattr(denoising, "draw_noise", lambda *_: silent)
    model, truth = filled(num_denoising=3), targets((3, 3))
    order = torch.tensor([2, 0, 1])
    shuffled = [{key: value[order] for key, value in target.items()} for target in truth]
    straight, permuted = (model(features(), truths).groups["dn"].layers[-1] for truths in (truth, shuffled))
    torch.testing.assert_close(permuted.logits[:, :3], straight.logits[:, :3][:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(permuted.boxes[:, 3:], straight.boxes[:, 3:][:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0)])
def test_every_parameter_gets_a_finite_gradient(counts: tuple[int, int]) -> None:
    """Whatever the batch holds: distributed training needs the same graph on every rank."""
    model = filled()
    everything(model(features(), targets(counts))).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_border_cells_fill_up_small_images() -> None:
    """Invalid anchors are infinite; where nothing else is left they are selected and nothing becomes NaN."""
    model = filled(num_queries=80, eval_spatial_size=None, eps=0.2)
    output = model(features(), targets())
    assert torch.isinf(output.proposals.boxes.logit()).any()
    everything(output).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_eval_answers_with_the_final_predictions() -> None:
    model = filled()
    training = model(features(), targets())
    answer = model.eval()(features())
    assert isinstance(answer, Predictions)
    torch.testing.assert_close(answer.logits, training.layers[-1].logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_batch_of_two_is_two_batches_of_one(size: tuple[int, int]) -> None:
    model, maps = filled().eval(), features(2, *size)
    both = model(maps)
    for i in range(2):
        single = model([value[i : i + 1] for value in maps])
        torch.testing.assert_close(single.logits[0], both.logits[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(single.boxes[0], both.boxes[i], atol=1e-5, rtol=1e-5)


def test_stored_anchors_equal_computed_ones() -> None:
    stored, computed = filled().eval(), filled(eval_spatial_size=None).eval()
    assert not {"anchors", "valid_mask"} & set(computed.state_dict())
    assert stored.queries.anchors.shape == (1, 80, 4)
    assert torch.equal(stored(features()).boxes, computed(features()).boxes)
    other = features(1, 96, 64)
    assert torch.equal(stored(other).boxes, computed(other).boxes)


@pytest.mark.parametrize("method", ["default", "agnostic", "one2many"])
def test_query_selection(method: str) -> None:
    model = filled(query_select_method=method, num_queries=30)
    output = model(features(), targets())
    everything(output).backward()
    assert output.proposals.logits.shape[-1] == (1 if method == "agnostic" else 5)
    if method != "one2many":
        assert (output.proposals.logits.amax(-1).diff(dim=1) <= 0).all()
    if method == "one2many":
        assert any(len(set(row.tolist())) < 30 for row in output.memory_index)
    else:
        assert all(len(set(row.tolist())) == 30 for row in output.memory_index)


def test_learned_content() -> None:
    model = filled(learn_query_content=True)
    assert model.queries.learned.weight.shape == (8, 16)
    everything(model(features(), targets())).backward()
    assert model.queries.learned.weight.grad.any()


def test_discrete_sampling_does_not_learn_offsets() -> None:
    model = filled(cross_attn_method="discrete")
    everything(model(features(2, 32, 96), targets())).backward()
    offsets = [parameter for name, parameter in model.named_parameters() if "sampling_offsets" in name]
    assert len(offsets) == 6
    assert not any(offset.requires_grad for offset in offsets)


def test_extra_level() -> None:
    model = filled(num_levels=3, num_points=[2, 1, 1], num_queries=90, eval_spatial_size=[96, 80])
    assert model.queries.anchors.shape[1] == 12 * 10 + 6 * 5 + 3 * 3
    assert model.eval()(features(1, 96, 80)).boxes.shape == (1, 90, 4)


def test_denoising_off() -> None:
    model = filled(num_denoising=0)
    assert not any("denoising" in name for name in model.state_dict())
    assert model(features()).groups == {}


def test_dropout_and_aux_loss_act() -> None:
    model = filled(dropout=0.5, num_denoising=0)
    maps = features()
    assert not torch.equal(model(maps).layers[-1].logits, model(maps).layers[-1].logits)
    quiet = filled(aux_loss=False)(features(), targets())
    assert len(quiet.layers) == len(quiet.groups["dn"].layers) == 1
    assert quiet.initial is not None
    assert quiet.proposals is not None


@pytest.mark.parametrize("batch", [0, 2])
def test_bfloat16_autocast_is_near_float32(batch: int) -> None:
    model = filled()
    truth = targets((batch, batch))
    torch.manual_seed(0)
    full = model(features(), truth)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(features(), truth)
    for layer in (*mixed.layers, mixed.initial, mixed.proposals, *mixed.groups["dn"].layers):
        for value in (layer.logits, layer.boxes, layer.edge_logits):
            assert value is None or value.dtype == torch.float32
    assert full.layers[0].boxes.shape == mixed.layers[0].boxes.shape
    everything(mixed).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    same = (full.memory_index == mixed.memory_index).all(0)
    torch.testing.assert_close(full.initial.boxes[:, same], mixed.initial.boxes[:, same], atol=0.05, rtol=0)


def test_deployed_form() -> None:
    model = filled(eval_idx=1)
    model.eval()
    fused = model.fused()
    want, got = model(features()), fused(features())
    assert torch.equal(want.logits, got.logits)
    assert torch.equal(want.boxes, got.boxes)
    gone = set(model.state_dict()) - set(fused.state_dict())
    assert all(
        name.startswith(("decoder.layers.2", "decoder.lqe_layers.0", "decoder.lqe_layers.2", "dec_score_head.0"))
        or name.startswith(("dec_score_head.2", "dec_bbox_head.2"))
        for name in gone
    )
    assert set(fused.state_dict()) < set(model.state_dict())
    assert not build().fused().training
    with pytest.raises(RuntimeError, match="fused form has no training heads"):
        fused.train()(features(), targets())


def test_copies_share_the_bin_parameters() -> None:
    model = copy.deepcopy(build())
    state = model.state_dict(keep_vars=True)
    assert state["up"] is state["decoder.up"] is model.box_head.bins.up
    assert state["reg_scale"] is state["decoder.reg_scale"] is model.box_head.bins.reg_scale
    assert model.box_head.bins.reg_scale.dtype == torch.int64
    assert build(reg_scale=4.0).box_head.bins.reg_scale.dtype == torch.float32
    state = model.state_dict()
    state["reg_scale"] = state["decoder.reg_scale"] = torch.tensor([8.0])
    model.load_state_dict(state)
    assert model.box_head.bins.reg_scale.item() == 8


def test_initial_values() -> None:
    model = build()
    for head in (model.queries.score, *model.score_head.layers):
        torch.testing.assert_close(head.bias.detach(), torch.full((5,), -math.log(99)))
    for head in (model.queries.box, model.box_head.initial, *model.box_head.layers):
        assert not head.layers[-1].weight.any()
        assert not head.layers[-1].bias.any()
    assert not model.sources[0].embedding.weight[5].any()
    bound = math.sqrt(6 / 32)
    assert 0.8 * bound < model.queries.project.proj.weight.abs().max() <= bound
    output = model(features(), targets())
    for layer in output.layers:  # zero distributions leave the first box where it is
        torch.testing.assert_close(layer.boxes, output.initial.boxes)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_queries": 0}, "num_queries must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"nhead": 0}, "nhead must be at least 1, got 0"),
        ({"hidden_dim": -16}, "hidden_dim must be at least 1, got -16"),
        ({"num_levels": 2**53}, "num_levels must be at most 64, got 9007199254740992"),
        ({"reg_max": 7}, "reg_max must be even and at least 4, got 7"),
        ({"eval_idx": 3}, "eval_idx 3 is not one of the 3 decoder layers: choose one of 0"),
        ({"layer_scale": 0.5}, "layer_scale must be at least 1, got 0.5"),
        (
            {"query_select_method": "best"},
            r"query_select_method 'best' is unknown: choose one of \['default', 'agnostic'",
        ),
        ({"cross_attn_method": "dense"}, "cross_attn_method 'dense' is unknown: choose one of"),
        ({"feat_strides": [8]}, r"feat_strides \[8\] and feat_channels \[16, 16\] differ in length"),
        (
            {"eval_spatial_size": [63, 64]},
            r"eval_spatial_size is \[63, 64\]: give .* multiples of 16",
        ),
        ({"nhead": 3}, "16 channels do not split into 3 heads: change hidden_dim or nhead"),
        ({"num_points": [1]}, r"num_points \[1\] must hold one positive number for each of the 2 levels"),
        ({"num_denoising": -2}, "num_denoising must be 0"),
        ({"activation": "selu7"}, "no activation called 'selu7'"),
    ],
)
def test_settings_that_do_not_fit(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**setting)


def test_inputs_that_do_not_fit() -> None:
    model = build()
    with pytest.raises(
        ValueError, match="training with num_denoising > 0 needs targets: pass them, or set num_denoising"
    ):
        model(features())
    with pytest.raises(
        ValueError, match="image has 5 cells over all levels but num_queries is 8: use larger images or"
    ):
        model.eval()(features(1, 16, 16))
    with pytest.raises(ValueError, match=r"feat_channels \[16, 16\] but got maps of \[8, 8\] channels"):
        model(features(channels=8))


@pytest.mark.gpu
def test_half_precision_step_without_synchronisation() -> None:
    model = filled().cuda()
    maps = [feature.cuda() for feature in features()]
    truth = [{key: value.cuda() for key, value in target.items()} for target in targets()]
    with torch.autocast("cuda", dtype=torch.float16):
        model(maps, truth)
        torch.cuda.set_sync_debug_mode("error")
        try:
            output = model(maps, truth)
            everything_on_device = [layer.logits for layer in output.layers]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(tensor.dtype == torch.float32 and torch.isfinite(tensor).all() for tensor in everything_on_device)


def test_computed_tables_survive_a_checkpoint_for_another_size() -> None:
    tall, wide = build(eval_spatial_size=[128, 64]), build(eval_spatial_size=[64, 128])
    before = tall.queries.anchors.clone()
    tall.load_state_dict(wide.state_dict())
    assert torch.equal(tall.queries.anchors, before)
    assert torch.equal(tall.queries.score.weight, wide.queries.score.weight)


def test_wide_layers_scale_the_feed_forward_net_itself() -> None:
    model = build(hidden_dim=16, dim_feedforward=25, eval_idx=0, layer_scale=1.5, nhead=4)
    assert [layer.linear1.out_features for layer in model.layers] == [25, 38, 38]


def test_without_auxiliary_losses_every_trainable_parameter_gets_a_gradient() -> None:
    model = build(aux_loss=False).train()
    everything(model(features(), targets())).backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None] == []
    assert not any(one.requires_grad for one in model.score_head.quality[0].parameters())
