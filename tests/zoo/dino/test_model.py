# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DINO: what its box heads share, where gradients go, what padding and ranks mean, sizes, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isdfine
from isdfine.bench.model_info import model_info
from isdfine.losses.detr import DETRCriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.backbone.resnet import ResNet
from isdfine.nn.types import DetectorOutput, Want
from isdfine.zoo.dino.decoder import DINOTransformer
from isdfine.zoo.dino.model import DINO
from isdfine.zoo.encoders import DeformableEncoder
from zoo_cases import moved

CONFIGS = Path(__file__).parents[3] / "configs" / "detr"
FDR: dict[str, Any] = {"box_head": "fdr", "reg_max": 8}
FORMS: dict[str, dict[str, Any]] = {"direct": {}, "fdr": FDR}
BOXES = torch.tensor([[0.5, 0.4, 0.3, 0.3], [0.2, 0.2, 0.2, 0.1], [0.7, 0.6, 0.1, 0.3]])


def decoder(**options: Any) -> DINOTransformer:
    sizes = {"hidden_dim": 64, "feat_channels": [64] * 4, "num_layers": 3, "dim_feedforward": 32, "num_queries": 12}
    return DINOTransformer(5, **{**sizes, "num_denoising": 6, **options})


def detector(padding: str = "official", **options: Any) -> DINO:
    torch.manual_seed(1)
    sizes = {"hidden_dim": 64, "dim_feedforward": 32, "num_encoder_layers": 1, "dropout": 0.0}
    encoder = DeformableEncoder((128, 256, 512), **sizes)
    return DINO(ResNet(18, pretrained=False), encoder, decoder(**options), padding=padding)  # type: ignore[arg-type]


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def targets_of(*counts: int) -> list[dict[str, Tensor]]:
    return [{"labels": torch.arange(count), "boxes": BOXES[:count]} for count in counts]


def whole(model: nn.Module, **inputs: Any) -> DetectorOutput:
    with torch.no_grad():
        output = model.eval()(images(), want=Want(layers=True), **inputs)
    assert isinstance(output, DetectorOutput)
    return output


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("counts", [(3, 1), (0, 0)])
def test_every_parameter_that_trains_gets_a_gradient(form: str, counts: tuple[int, int]) -> None:
    model = detector(**FORMS[form]).train()
    costs = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}
    weights = {"loss_focal": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15}
    matcher = HungarianMatcher(costs, use_focal_loss=True)
    names = ["focal", "boxes", *(["local"] if form == "fdr" else [])]
    criterion = DETRCriterion(matcher, weights, names, num_classes=5, reg_max=8)
    losses = criterion(model(images(), targets_of(*counts)), targets_of(*counts))
    assert {"loss_focal_enc_0", "loss_bbox_enc_0", "loss_giou_dn_2"} <= set(losses)
    assert ("loss_fgl" in losses) == (form == "fdr")
    sum(losses.values(), torch.zeros(())).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_untrained_distributions_leave_the_first_boxes() -> None:
    model = detector(**FDR)
    nn.init.normal_(model.decoder.box_head.initial.layers[2].weight, std=0.3)  # type: ignore[union-attr, operator, arg-type]
    output = whole(model, targets=targets_of(3, 1))
    for part in (output, output.groups["dn"]):
        assert part.initial is not None
        for layer in part.layers:
            torch.testing.assert_close(layer.boxes, part.initial.boxes, atol=1e-6, rtol=0)


def test_a_box_head_touches_no_other_part() -> None:
    def others(one: nn.Module) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in one.state_dict().items() if not key.startswith("box_head.")}

    assert others(decoder()) == others(decoder(**FDR))


def test_shared_heads_are_stored_under_every_published_name() -> None:
    direct, distributions = (detector(**options).state_dict() for options in FORMS.values())
    for number in range(3):
        for place in ("", "transformer.decoder."):
            for state in (direct, distributions):
                assert state[f"{place}class_embed.{number}.bias"] is not None
            assert f"{place}bbox_embed.{number}.layers.2.bias" in direct
    assert "dec_bbox_head.2.layers.2.weight" in distributions
    assert "bbox_embed.1.layers.2.bias" not in distributions


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_learns_from_the_boxes_of_the_next(form: str) -> None:
    """Look forward twice reaches one layer back; distributions add up, so theirs reach all; first boxes stay."""
    model = moved(detector(**FORMS[form])).train()
    states: list[Any] = []
    step = model.decoder.box_head.step
    model.decoder.box_head.step = lambda *given: states.append(step(*given)) or states[-1]
    model(images(), targets_of(3, 1))
    first, second = ((one.moved if form == "direct" else one.edge_logits) for one in states[:2])
    further = () if form == "direct" else (states[2].initial_boxes,)
    gradients = torch.autograd.grad(states[2].boxes.sum(), [first, second, *further], allow_unused=True)
    assert [one is not None for one in gradients] == ([False, True] if form == "direct" else [True, True, False])
    assert not any(one.references.requires_grad for one in states)


def test_contents_belong_to_ranks() -> None:
    model = moved(detector())
    before = whole(model)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    learned = model.decoder.queries.learned.weight
    learned.data = learned.data[order]
    after = whole(model)
    assert torch.equal(before.memory_index, after.memory_index)
    assert not torch.allclose(before.layers[-1].boxes, after.layers[-1].boxes[:, order])
    select = model.decoder.queries.select_rows
    model.decoder.queries.select_rows = lambda logits, count: select(logits, count)[:, order]
    torch.testing.assert_close(whole(model).layers[-1].boxes, before.layers[-1].boxes[:, order])


def test_denoising_changes_no_other_query() -> None:
    model = moved(detector())
    alone, beside = whole(model), whole(model, targets=targets_of(3, 1))
    torch.testing.assert_close(beside.layers[-1].boxes, alone.layers[-1].boxes, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", FORMS)
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


def test_weights_start_as_in_the_paper() -> None:
    part = decoder()
    for head in (part.box_head.layers[0], part.queries.box):
        assert not any(tensor.any() for tensor in head.layers[2].parameters())
    for score in (part.score_head.layers[0], part.queries.score):
        torch.testing.assert_close(score.bias.sigmoid(), torch.full((5,), 0.01))
    for weight in (part.queries.learned.weight, part.queries.project[0].weight, part.position.head.layers[0].weight):
        limit = (6 / sum(weight.shape)) ** 0.5  # Xavier's
        assert 0.9 * limit < weight.abs().max() <= limit


@pytest.mark.parametrize(
    ("config", "size", "published"),
    [
        ("dino_r18_4scale", (402, 1333), 128),
        pytest.param("dino_r50_4scale", (800, 1280), 279, marks=pytest.mark.slow),
    ],
)
def test_operations_are_the_published_ones(config: str, size: tuple[int, int], published: float) -> None:
    """Published counts are of multiply-adds, and their box head reads all cells of the memory instead of the best."""
    info = model_info(isdfine.load_config(CONFIGS / f"{config}.yml"), size)
    cells = sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in (8, 16, 32, 64))
    box_head = 256 * (256 + 256 + 4) * cells
    counted = (info.gflops + info.gflops_attention) / 2 + box_head / 1e9
    assert counted == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box_head": "soft"}, r"box_head 'soft' is unknown: choose one of fdr, direct"),
        ({"quality_estimators": True}, r"quality_estimators need distributions, but box_head is 'direct'"),
        ({"eval_idx": 3}, r"eval_idx 3 is not one of the 3 decoder layers"),
        ({"num_denoising": -1}, r"num_denoising must be 0 \(off\) or more"),
        ({"num_queries": 0}, r"num_queries"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder(**options)
