# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a forward pass returns is asked for, and does not depend on the mode."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill
from isdfine.nn.types import TRAINING, DetectorOutput, MemoryTap, Predictions, QueryGroup, Want
from isdfine.zoo.detr import DETR
from isdfine.zoo.dfine.decoder import DFINETransformer

SETTINGS = {
    "hidden_dim": 16,
    "nhead": 4,
    "num_queries": 6,
    "feat_channels": [16, 16],
    "feat_strides": [8, 16],
    "num_levels": 2,
    "num_points": 2,
    "num_layers": 3,
    "dim_feedforward": 16,
    "num_denoising": 4,
    "reg_max": 8,
}
HEADS = [{}, {"box_head": "direct", "merge": "residual", "cross_attn_projections": True}]
TAPS = frozenset({"backbone", "neck", "memory", "queries", "layer_starts", "hidden"})
KINDS = frozenset({"self_attention", "cross_attention"})


class Pyramid(nn.Module):
    """Two maps at strides 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.down = nn.Conv2d(16, 16, 2, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.stem(images)
        return [fine, self.down(fine)]


class Doubled(nn.Module):
    """An encoder whose maps are told apart from the backbone's."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [2 * level for level in maps]


def build(**more: object) -> DETR:
    torch.manual_seed(0)
    return fill.fill_module(DETR(Pyramid(), Doubled(), DFINETransformer(3, **(SETTINGS | more))))


def images() -> Tensor:
    return torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(1))


def targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.3, 0.4, 0.2, 0.1]])
    return [{"labels": torch.tensor([0, 2]), "boxes": boxes}, {"labels": torch.tensor([1]), "boxes": boxes[:1]}]


def tensors(predictions: list[Predictions | None]) -> Iterator[Tensor]:
    for one_set in predictions:
        if one_set is not None:
            yield from (one_set.logits, one_set.boxes)
            if one_set.edge_logits is not None:
                yield one_set.edge_logits


def everything(output: DetectorOutput) -> list[Tensor]:
    sets = [*output.layers, output.initial, output.proposals]
    for group in output.groups.values():
        sets += [*group.layers, group.initial]
    taps = output.taps
    tapped = [*taps.get("backbone", ()), *taps.get("neck", ()), *taps.get("hidden", ())]
    tapped += [taps["memory"].tokens] if "memory" in taps else []
    seen = output.attention
    attended = [] if seen is None else [*seen.queries, *seen.keys, *seen.point_logits]
    return [*tensors(sets), *tapped, *attended]


def run(model: DETR, want: Want | None = None, **more: object) -> DetectorOutput:
    torch.manual_seed(5)
    return model(images(), targets(), want=want, **more)


@pytest.mark.parametrize("head", HEADS)
def test_a_frozen_teacher_sees_what_a_training_step_sees(head: dict[str, object]) -> None:
    model = build(**head)
    model.decoder.projection.eval()  # statistics of a batch are the one thing that a mode changes here
    want = Want(layers=True, taps=TAPS, attention=KINDS)
    seen = run(model, want)
    with torch.no_grad():
        taught = run(copy.deepcopy(model).eval(), want)
    assert set(taught.taps) == TAPS
    assert len(everything(taught)) == len(everything(seen)) > 10
    for a, b in zip(everything(taught), everything(seen)):
        torch.testing.assert_close(a, b)
    assert not any(tensor.requires_grad for tensor in everything(taught))


@pytest.mark.parametrize("head", HEADS)
def test_the_mode_gives_the_default_alone(head: dict[str, object]) -> None:
    model = build(**head)
    assert torch.equal(run(model).layers[0].boxes, run(model, TRAINING).layers[0].boxes)
    model.eval()
    answer = model(images())
    assert isinstance(answer, Predictions)
    output = model(images(), want=Want())
    assert isinstance(output, DetectorOutput)
    assert torch.equal(output.layers[0].boxes, answer.boxes)
    assert (len(output.layers), output.initial, output.groups, output.attention, output.taps) == (1, None, {}, None, {})


def test_taps() -> None:
    model = build(layer_scale=2, eval_idx=1)
    output = run(model, Want(layers=True, taps=TAPS))
    assert set(output.taps) == TAPS == model.taps
    assert [level.shape for level in output.taps["backbone"]] == [(2, 16, 4, 8), (2, 16, 2, 4)]
    assert all(torch.equal(neck, 2 * level) for neck, level in zip(output.taps["neck"], output.taps["backbone"]))
    memory = output.taps["memory"]
    assert isinstance(memory, MemoryTap)
    assert (memory.tokens.shape, memory.sizes) == ((2, 40, 16), [(4, 8), (2, 4)])
    assert torch.equal(memory.tokens[:, 8], output.taps["neck"][0][:, :, 1, 0])
    assert [state.shape for state in output.taps["hidden"]] == [(2, 6, 16), (2, 6, 16), (2, 6, 32)]
    dn = output.groups["dn"]
    assert [state.shape[:2] for state in dn.hidden] == [dn.layers[0].boxes.shape[:2]] * 3
    head = model.decoder.score_head.layers[2]
    assert head(output.taps["hidden"][2]).shape == output.layers[2].logits.shape


def test_eval_runs_no_further_than_it_is_asked() -> None:
    model = build(eval_idx=1).eval()
    output = model(images(), want=Want(taps=frozenset({"hidden"}), attention=KINDS))
    assert len(output.taps["hidden"]) == len(output.attention.queries) == 2
    assert torch.equal(output.layers[-1].boxes, model(images()).boxes)
    assert len(model(images(), want=TRAINING).layers) == 3


def test_what_there_is_not() -> None:
    model = build()
    message = "DETR has no tap corners, dream: choose among backbone, hidden, layer_starts, memory, neck, queries"
    with pytest.raises(ValueError, match=message):
        run(model, Want(taps=frozenset({"dream", "corners", "neck"})))
    with pytest.raises(ValueError, match="DFINETransformer have no gaze: choose among cross_attention, self_attention"):
        run(model, Want(attention=frozenset({"gaze"})))


def test_further_groups_come_back_and_leave_the_others_alone() -> None:
    model = build().eval()
    plain = model(images())
    group = QueryGroup("points", torch.randn(2, 4, 16), torch.randn(2, 4, 4), supervised=False)
    output = model(images(), groups=[group], want=TRAINING)
    assert list(output.groups) == ["points"]
    assert [one_set.boxes.shape for one_set in output.groups["points"].layers] == [(2, 4, 4)] * 3
    torch.testing.assert_close(output.layers[-1].boxes, plain.boxes)
    trained = run(model.train(), groups=[group])
    assert list(trained.groups) == ["dn", "points"]


def test_wants_add_up() -> None:
    both = Want(taps=frozenset({"neck"})) | Want(layers=True, taps=frozenset({"hidden"}), attention=KINDS)
    assert both == Want(True, frozenset({"neck", "hidden"}), KINDS)
    assert hash(both) == hash(Want(True, frozenset({"hidden", "neck"}), KINDS))


def points_at_boxes(model: DETR, points: Tensor, position: Tensor | None) -> None:
    """Let the matching queries start from points."""
    select = model.decoder.queries.forward

    def forward(memory: object) -> tuple:
        group, proposals = select(memory)
        return replace(group, reference_logits=points, position=position), proposals

    model.decoder.queries.forward = forward


@pytest.mark.parametrize("head", HEADS)
def test_queries_may_start_from_points_with_positions_of_their_own(head: dict[str, object]) -> None:
    model = build(num_denoising=0, **head)
    points = torch.randn(2, 6, 2)
    points_at_boxes(model, points, torch.randn(2, 6, 16))
    model.decoder.position.forward = lambda *_: pytest.fail("the group brings its positions")
    output = model.eval()(images(), want=TRAINING)
    assert [layer.boxes.shape for layer in output.layers] == [(2, 6, 4)] * 3
    nn.init.zeros_(model.decoder.box_head.layers[0].layers[2].weight)
    nn.init.zeros_(model.decoder.box_head.layers[0].layers[2].bias)
    if head:  # no offsets: the centre stays at the point, and the size at its start
        first = model(images(), want=TRAINING).layers[0].boxes
        torch.testing.assert_close(first, torch.cat((points.sigmoid(), torch.full_like(points, 0.5)), dim=-1))


def test_points_need_positions() -> None:
    model = build(num_denoising=0)
    points_at_boxes(model, torch.randn(2, 6, 2), None)
    with pytest.raises(ValueError, match=r"group '' has points and no position: give its position \(B, Q, D\)"):
        model(images())


def test_a_position_of_its_own_stands_beside_those_of_boxes() -> None:
    model = build(num_denoising=0).eval()
    content, references = torch.randn(2, 4, 16), torch.randn(2, 4, 4)
    given = model.decoder.position(references.sigmoid())

    def run_with(position: Tensor | None) -> Tensor:
        group = QueryGroup("points", content, references, position=position, supervised=False)
        return model(images(), groups=[group], want=TRAINING).groups["points"].layers[0].boxes

    torch.testing.assert_close(run_with(given), run_with(None))
    assert not torch.equal(run_with(10 * torch.randn_like(given)), run_with(None))
