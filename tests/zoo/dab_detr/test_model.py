# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR and DN-DETR: what their forms and box heads share, what they do with padding, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.losses.detr import DETRCriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.capture import DENSE_CROSS_ATTENTION, SELF_ATTENTION, SELF_ATTENTION_MAPS
from isdfine.nn.types import TRAINING, DetectorOutput, Want
from isdfine.zoo.conditional import ConditionalQueryPosition
from isdfine.zoo.dab_detr.decoder import DABDETRTransformer
from isdfine.zoo.dab_detr.model import DABDETR
from isdfine.zoo.dn_detr.decoder import DNDETRTransformer
from isdfine.zoo.dn_detr.model import DNDETR
from isdfine.zoo.encoders import DeformableEncoder, DenseEncoder
from isdfine.zoo.heads import FDRBoxHead
from zoo_cases import moved

DIM, CLASSES, QUERIES = 64, 5, 12
FORMS = ["dab", "dab_deformable", "dn", "dn_deformable"]
FDR = {"box_head": "fdr", "reg_max": 8}
SIZES = {"hidden_dim": DIM, "num_layers": 2, "dim_feedforward": 32, "num_queries": QUERIES}
BOXES = torch.tensor([[0.5, 0.4, 0.3, 0.3], [0.2, 0.2, 0.2, 0.1], [0.7, 0.6, 0.1, 0.3]])


def decoder(form: str, **options: Any) -> DABDETRTransformer:
    kind = DNDETRTransformer if form.startswith("dn") else DABDETRTransformer
    if form.endswith("deformable"):
        return kind(CLASSES, **{**SIZES, "feat_channels": [DIM] * 4, **options})
    maps = {"feat_channels": [DIM], "feat_strides": [32], "cross_attention": "dense", "activation": "prelu"}
    return kind(CLASSES, **{**SIZES, **maps, **options})


class Pyramid(nn.Module):
    """Maps of 8 channels, at strides 8, 16 and 32 or at the last alone."""

    def __init__(self, *, deep: bool) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Conv2d(3, 8, 8, 8), *(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(2))])
        self.first = 0 if deep else 2
        self.channels, self.strides = [8, 8, 8][self.first :], [8, 16, 32][self.first :]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for step in self.steps:
            maps.append(step(maps[-1]).relu())
        return maps[1 + self.first :]


def detector(form: str, padding: str = "official", **options: Any) -> DABDETR | DNDETR:
    torch.manual_seed(1)
    sizes = {"hidden_dim": DIM, "dim_feedforward": 32, "num_encoder_layers": 1, "dropout": 0.0}
    deep = form.endswith("deformable")
    encoder = DeformableEncoder((8, 8, 8), **sizes) if deep else DenseEncoder((8,), **sizes)
    model = DNDETR if form.startswith("dn") else DABDETR
    return model(Pyramid(deep=deep), encoder, decoder(form, **options), padding=padding)  # type: ignore[arg-type]


def criterion(*losses: str) -> DETRCriterion:
    costs = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}
    weights = {"loss_focal": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15}
    matcher = HungarianMatcher(costs, use_focal_loss=True)
    return DETRCriterion(matcher, weights, ["focal", "boxes", *losses], num_classes=CLASSES, reg_max=8)


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def targets_of(*counts: int) -> list[dict[str, Tensor]]:
    return [{"labels": torch.arange(count), "boxes": BOXES[:count]} for count in counts]


def whole(model: nn.Module, want: Want = TRAINING, **inputs: Any) -> DetectorOutput:
    with torch.no_grad():
        output = model.eval()(images(), want=want, **inputs)
    assert isinstance(output, DetectorOutput)
    return output


@pytest.mark.parametrize("counts", [(3, 1), (0, 0)])
@pytest.mark.parametrize("head", ["direct", "fdr"])
@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_that_trains_gets_a_gradient(form: str, head: str, counts: tuple[int, ...]) -> None:
    model = detector(form, box_head=head, reg_max=8).train()
    targets = targets_of(*counts)
    output = model(images(), targets)
    losses = criterion(*(["local"] if head == "fdr" else []))(output, targets)
    assert ("loss_fgl" in losses) == (head == "fdr")
    if form.startswith("dn"):
        assert "loss_giou_dn_1" in losses
        assert output.groups["dn"].layers[0].boxes.shape[1] == 5 * max(counts)
        assert (output.groups["dn"].initial is not None) == (head == "fdr")
    sum(losses.values(), torch.zeros(())).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("form", FORMS)
def test_untrained_distributions_leave_the_first_boxes(form: str) -> None:
    model = detector(form, **FDR)
    head = model.decoder.box_head
    assert isinstance(head, FDRBoxHead)
    nn.init.normal_(head.initial.layers[2].weight, std=0.3)  # type: ignore[arg-type]
    output = whole(model, targets=targets_of(3, 1))
    for part in (output, *output.groups.values()):
        assert part.initial is not None
        for layer in part.layers:
            torch.testing.assert_close(layer.boxes, part.initial.boxes, atol=1e-6, rtol=0)
    assert len(output.groups) == form.startswith("dn")


@pytest.mark.parametrize("form", FORMS)
def test_a_box_head_touches_no_other_part(form: str) -> None:
    direct, distributions = decoder(form), decoder(form, **FDR)

    def others(one: nn.Module) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in one.state_dict().items() if not key.startswith("box_head.")}

    assert others(direct) == others(distributions)


@pytest.mark.parametrize("form", FORMS)
def test_order_of_queries_means_nothing(form: str) -> None:
    model = moved(detector(form))
    before = whole(model).layers[-1].boxes
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(4))
    queries = model.decoder.queries
    for table in (queries.anchors, *([] if queries.content is None else [queries.content])):
        table.weight.data = table.weight.data[order]
    torch.testing.assert_close(whole(model).layers[-1].boxes, before[:, order])


@pytest.mark.parametrize("head", ["direct", "fdr"])
@pytest.mark.parametrize("form", ["dab", "dab_deformable"])
def test_more_padding_changes_nothing_in_exact_mode(form: str, head: str) -> None:
    model = moved(detector(form, "exact", box_head=head, reg_max=8))
    sizes, batch = torch.tensor([(64, 48), (40, 96)]), images()
    batch = torch.where(torch.arange(64)[:, None] < sizes[:, 0].view(-1, 1, 1, 1), batch, 0)
    batch = torch.where(torch.arange(96) < sizes[:, 1].view(-1, 1, 1, 1), batch, 0)
    with torch.no_grad():
        tight = model(batch, image_sizes=sizes)
        wide = model(nn.functional.pad(batch, (0, 64, 0, 128)), image_sizes=sizes)
    torch.testing.assert_close(wide.boxes, tight.boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(wide.logits, tight.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["dn", "dn_deformable"])
def test_denoising_queries_do_not_move_the_others(form: str) -> None:
    model = moved(detector(form))
    alone, beside = whole(model), whole(model, targets=targets_of(3, 1))
    assert set(beside.groups) == {"dn"}
    torch.testing.assert_close(beside.layers[-1].boxes, alone.layers[-1].boxes, atol=1e-5, rtol=0)
    assert beside.groups["dn"].group.content[0, 0, -1] == 1
    content = model.decoder.queries.rows()
    assert not content[:, -1].any()
    if form == "dn":
        assert torch.equal(content[:, :-1], model.decoder.queries.labels.weight[-1:].expand(QUERIES, -1))


@pytest.mark.parametrize("form", ["dn", "dn_deformable"])
def test_the_label_table_is_one_under_one_name(form: str) -> None:
    model, other = detector(form), moved(detector(form))
    state = model.state_dict()
    assert [key for key, value in state.items() if value.shape == (CLASSES + 1, DIM - 1)] == ["label_enc.weight"]
    assert model.class_rows == {"class_embed": 0, "label_enc": 1}
    other.load_state_dict(state)
    tables = [part for part in other.modules() if isinstance(part, nn.Embedding) and len(part.weight) == CLASSES + 1]
    assert len(tables) == 1
    assert torch.equal(tables[0].weight, state["label_enc.weight"])
    silent = detector(form, num_denoising=0)
    assert ("label_enc.weight" in silent.state_dict()) == (form == "dn")
    assert not silent.train()(images(), targets_of(1, 0)).groups


@pytest.mark.parametrize(("form", "key"), [("dab", "transformer.patterns"), ("dab_deformable", "patterns_embed")])
def test_patterns_and_fixed_centres(form: str, key: str) -> None:
    model = detector(form, num_patterns=3, random_refpoints_xy=True)
    state = model.state_dict()
    assert state[f"{key}.weight"].shape == (3, DIM)
    assert ("tgt_embed.weight" in state) == (form == "dab_deformable")
    assert state["refpoint_embed.weight"].shape == (QUERIES, 4)
    output = model.train()(images(), targets_of(1, 0))
    assert output.layers[-1].boxes.shape == (2, 3 * QUERIES, 4)
    sum(layer.boxes.sum() + layer.logits.square().sum() for layer in output.layers).backward()
    gradient = model.decoder.queries.anchors.weight.grad
    assert not gradient[:, :2].any()
    assert gradient[:, 2:].any()


def test_dense_attention_is_recorded() -> None:
    model = moved(detector("dn"))
    kinds = frozenset({SELF_ATTENTION, DENSE_CROSS_ATTENTION})
    sizes = torch.tensor([(64, 96), (64, 32)])
    output = whole(model, Want(layers=True, attention=kinds), image_sizes=sizes)
    attention = output.attention
    assert attention is not None
    assert [query.shape for query in attention.dense_queries] == [(2, 8, QUERIES, 16)] * 2
    assert [key.shape for key in attention.dense_keys] == [(2, 8, 6, 16)] * 2
    assert attention.key_padding_mask.tolist() == [[False] * 6, [False, True, True] * 2]
    assert [query.shape for query in attention.queries] == [(2, 8, QUERIES, 8)] * 2
    explicit = whole(model, Want(layers=True, attention=frozenset({SELF_ATTENTION_MAPS})), image_sizes=sizes)
    assert len(explicit.attention.scores) == 2
    torch.testing.assert_close(explicit.layers[-1].logits, output.layers[-1].logits, atol=1e-5, rtol=1e-5)


def test_a_query_with_a_narrow_box_tells_columns_apart_better() -> None:
    torch.manual_seed(0)
    position, content = ConditionalQueryPosition(DIM), torch.randn(1, 1, DIM)
    narrow, wide, none = (torch.tensor([[[0.5, 0.3, width, 0.2]]]) for width in (0.1, 0.4, -0.1))
    of_narrow, of_wide, of_none = (
        position(box, content, 1, None)[..., DIM:].chunk(2, -1) for box in (narrow, wide, none)
    )
    torch.testing.assert_close(of_narrow[1], 4 * of_wide[1])  # along x
    torch.testing.assert_close(of_narrow[0], of_wide[0])
    assert torch.isfinite(of_none[1]).all()  # distributions may say so


@pytest.mark.parametrize("form", FORMS)
def test_the_fused_decoder_says_the_same(form: str) -> None:
    model = moved(detector(form, **FDR))
    with torch.no_grad():
        maps = model.encoder(model.backbone(images()))
        before = model.decoder(maps)
        fused = model.decoder.fused()(maps)
    assert torch.equal(before.boxes, fused.boxes)
    assert torch.equal(before.logits, fused.logits)


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("dab", {"cross_attention": "sparse"}, r"cross_attention 'sparse' is unknown: choose one of deformable, dense"),
        ("dab", {"num_levels": 2}, r"cross_attention: dense reads one level, got 2: give feat_channels"),
        ("dab", {"num_points": 4}, r"cross_attention: dense samples no points: leave num_points out"),
        ("dab", {"nhead": 7}, r"64 channels do not split into 7 heads: change hidden_dim or nhead"),
        ("dab", {"merge": "mean"}, r"merge 'mean' is unknown: choose one of gate, residual"),
        ("dab", {"num_patterns": -3}, r"num_patterns must be 0 \(none\) or more, got -3"),
        ("dab_deformable", {"box_head": "soft"}, r"box_head 'soft' is unknown: choose one of fdr, direct"),
        ("dab_deformable", {"quality_estimators": True}, r"quality_estimators need distributions, but box_head is"),
        ("dn", {"num_denoising": -1}, r"num_denoising must be 0 \(off\) or more, got -1"),
        ("dn", {"label_noise_ratio": 2}, r"label_noise_ratio must be between 0 and 1, got 2"),
    ],
)
def test_what_is_refused(form: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder(form, **options)
