# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable-DETR: what its three forms and its box heads share, what they do with padding, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.losses.detr import DETRCriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.backbone.resnet import ResNet
from isdfine.nn.types import DetectorOutput, QueryGroup, Want
from isdfine.zoo.deformable_detr.decoder import DeformableDETRTransformer
from isdfine.zoo.deformable_detr.model import DeformableDETR
from isdfine.zoo.encoders import DeformableEncoder
from zoo_cases import moved

PLAIN: dict[str, Any] = {}
REFINE = {"box_refine": True}
TWO_STAGES = {"box_refine": True, "two_stage": True}
FDR = {**REFINE, "box_head": "fdr", "reg_max": 8}
FDR_TWO_STAGES = {**FDR, "two_stage": True}
FORMS = {"plain": PLAIN, "refine": REFINE, "two_stages": TWO_STAGES, "fdr": FDR, "fdr_two_stages": FDR_TWO_STAGES}


def decoder(**options: Any) -> DeformableDETRTransformer:
    sizes = {"hidden_dim": 64, "feat_channels": [64] * 4, "num_layers": 2, "dim_feedforward": 32, "num_queries": 12}
    return DeformableDETRTransformer(5, **{**sizes, "dropout": 0.0, **options})


def detector(padding: str = "official", **options: Any) -> DeformableDETR:
    torch.manual_seed(1)
    sizes = {"hidden_dim": 64, "dim_feedforward": 32, "num_encoder_layers": 1, "dropout": 0.0}
    encoder = DeformableEncoder((128, 256, 512), **sizes)
    return DeformableDETR(ResNet(18, pretrained=False), encoder, decoder(**options), padding=padding)  # type: ignore[arg-type]


def criterion(**options: Any) -> DETRCriterion:
    costs = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}
    weights = {"loss_focal": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15}
    matcher = HungarianMatcher(costs, use_focal_loss=True)
    return DETRCriterion(matcher, weights, options.pop("losses"), num_classes=5, reg_max=8, **options)


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def whole(model: nn.Module, **inputs: Any) -> DetectorOutput:
    with torch.no_grad():
        output = model.eval()(images(), want=Want(layers=True), **inputs)
    assert isinstance(output, DetectorOutput)
    return output


EMPTY = [("plain", (0, 0)), ("fdr_two_stages", (0, 0))]


@pytest.mark.parametrize(("form", "counts"), [*((form, (3, 1)) for form in FORMS), *EMPTY])
def test_every_parameter_that_trains_gets_a_gradient(form: str, counts: tuple[int, ...]) -> None:
    options = FORMS[form]
    model = detector(**options).train()
    boxes = torch.tensor([[0.5, 0.4, 0.3, 0.3], [0.2, 0.2, 0.2, 0.1], [0.7, 0.6, 0.1, 0.3]])
    targets = [{"labels": torch.arange(count), "boxes": boxes[:count]} for count in counts]
    local = ["local"] if "fdr" in form else []
    scores = criterion(losses=["focal", "boxes", *local], binary_proposals=options.get("two_stage", False))
    losses = scores(model(images(), targets), targets)
    assert ("loss_bbox_enc_0" in losses) == (form.endswith("two_stages"))
    assert ("loss_fgl" in losses) == ("fdr" in form)
    sum(losses.values(), torch.zeros(())).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("options", [FDR, FDR_TWO_STAGES])
def test_untrained_distributions_leave_the_first_boxes(options: dict[str, Any]) -> None:
    model = detector(**options)
    assert isinstance(model.decoder, DeformableDETRTransformer)
    nn.init.normal_(model.decoder.box_head.initial.layers[2].weight, std=0.3)  # type: ignore[union-attr, operator, arg-type]
    output = whole(model)
    assert output.initial is not None
    for layer in output.layers:
        torch.testing.assert_close(layer.boxes, output.initial.boxes, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stages", [False, True])
def test_a_box_head_touches_no_other_part(stages: bool) -> None:
    direct, distributions = (decoder(**form, two_stage=stages) for form in (REFINE, FDR))

    def others(one: nn.Module) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in one.state_dict().items() if not key.startswith("box_head.")}

    assert others(direct) == others(distributions)


def test_only_refined_boxes_move_what_layers_read() -> None:
    for options, moves in ((PLAIN, False), (REFINE, True)):
        model = moved(detector(**options))
        before = whole(model).layers[-1].logits
        nn.init.normal_(model.decoder.box_head.layers[0].layers[2].weight)
        assert torch.equal(before, whole(model).layers[-1].logits) != moves


def test_a_layer_learns_from_its_own_boxes_only() -> None:
    model = moved(detector(**REFINE)).train()
    model(images()).layers[1].boxes.sum().backward()
    first, second = model.decoder.box_head.layers
    assert first.layers[2].weight.grad is None
    assert second.layers[2].weight.grad.abs().sum() > 0


def test_order_of_queries_means_nothing() -> None:
    model = moved(detector(**REFINE))
    before = whole(model).layers[-1].boxes
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    embedding = model.decoder.queries.embedding.weight
    embedding.data = embedding.data[order]
    torch.testing.assert_close(whole(model).layers[-1].boxes, before[:, order])


@pytest.mark.parametrize("form", ["plain", "two_stages", "fdr"])
def test_more_padding_changes_nothing_in_exact_mode(form: str) -> None:
    model = moved(detector("exact", **FORMS[form]))
    sizes, batch = torch.tensor([(64, 48), (40, 64)]), images()
    batch = torch.where(torch.arange(64)[:, None] < sizes[:, 0].view(-1, 1, 1, 1), batch, 0)
    batch = torch.where(torch.arange(64) < sizes[:, 1].view(-1, 1, 1, 1), batch, 0)
    with torch.no_grad():
        tight = model(batch, image_sizes=sizes)
        wide = model(nn.functional.pad(batch, (0, 64, 0, 128)), image_sizes=sizes)
    torch.testing.assert_close(wide.boxes, tight.boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(wide.logits, tight.logits, atol=1e-4, rtol=0)


def test_proposals_are_every_cell_and_the_best_ones_start_the_queries() -> None:
    model = moved(detector(**TWO_STAGES))
    sizes = torch.tensor([(64, 64), (40, 24)])
    output = whole(model, image_sizes=sizes)
    assert output.binary_proposals
    assert output.proposals is not None
    assert output.memory_index is not None
    assert output.proposals.logits.shape == (2, 85, 5)  # 8 x 8 + 4 x 4 + 2 x 2 + 1
    score = output.proposals.logits[..., 0]
    assert torch.equal(output.memory_index[0], score[0].topk(12).indices)
    rows, columns = output.memory_index[1] // 8, output.memory_index[1] % 8
    assert ((output.memory_index[1] >= 64) | ((rows < 5) & (columns < 3))).all()  # 5 x 3 cells hold the second image
    outside = output.proposals.boxes[1, :64].unflatten(0, (8, 8))
    assert (outside[5:] == 1).all()
    assert (outside[:, 3:] == 1).all()
    assert (outside[:5, :3] < 1).all()


def test_small_padded_images_get_as_many_queries_as_others() -> None:
    model = moved(detector(**TWO_STAGES, num_queries=100))
    with pytest.raises(ValueError, match=r"the image has 85 cells over all levels but num_queries is 100: use larger"):
        model(images())
    output = whole(model, image_sizes=torch.tensor([(64, 64), (64, 32)]))
    assert output.layers[-1].boxes.shape == (2, 100, 4)
    assert torch.isfinite(output.layers[-1].logits).all()
    assert output.proposals is not None
    assert output.proposals.logits.shape[1] == 85


def test_weights_start_as_in_the_paper() -> None:
    for options in (PLAIN, REFINE, TWO_STAGES):
        part = decoder(**options)
        heads = [*part.box_head.layers, *([part.queries.box] if options is TWO_STAGES else [])]
        scores = [*part.score_head.layers, *([part.queries.score] if options is TWO_STAGES else [])]
        assert len(heads) == len(scores) == {0: 1, 1: 2, 2: 3}[len(options)]
        for number, head in enumerate(heads):
            size = -2.0 if number == 0 and options is not TWO_STAGES else 0.0
            assert head.layers[2].bias.tolist() == [0.0, 0.0, size, size]
            assert not head.layers[2].weight.any()
        assert all(torch.allclose(one.bias.sigmoid(), torch.tensor(0.01)) for one in scores)
        for layer in part.layers:
            assert not layer.cross_attn.sampling_offsets.weight.any()
            assert not layer.cross_attn.attention_weights.weight.any()
            assert layer.self_attn.out_proj.weight.abs().max() <= (6 / 128) ** 0.5 + 1e-6  # Xavier's limit
            assert layer.self_attn.out_proj.weight.abs().max() > 0.2
    assert all(not level[0].bias.any() for level in detector().encoder.input_proj)


def test_a_group_of_another_family_is_refused() -> None:
    group = QueryGroup("far", torch.zeros(2, 3, 64), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"brings no position, which Deformable-DETR's queries need: give it \(B, Q"):
        detector(**TWO_STAGES).eval()(images(), groups=[group])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"two_stage": True}, r"two_stage: True needs layers that move .*: set box_refine: True"),
        ({"box_head": "fdr"}, r"box_head: fdr needs layers that move .*: set box_refine: True"),
        ({"box_head": "soft"}, r"box_head 'soft' is unknown: choose one of fdr, direct"),
        ({"quality_estimators": True}, r"quality_estimators need distributions, but box_head is 'direct'"),
        ({"eval_idx": 2}, r"eval_idx 2 is not one of the 2 decoder layers"),
        ({"num_queries": 0}, r"num_queries"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder(**options)
