# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn

from isdfine.nn.attention import QuerySelfAttention
from isdfine.nn.capture import AttentionRecorder, CapturedAttention, attention_of, check_want
from isdfine.nn.sampling import DeformableAttention
from isdfine.nn.types import TRAINING, DetectorOutput
from nn.capture_cases import BOTH, decoder, features, step, targets, with_attention


class Answer(nn.Module):
    """A decoder with plain tensors as its output, as an exporter wants them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model([fine, coarse])
        return found.logits, found.boxes


def answers(output: DetectorOutput) -> list[torch.Tensor]:
    sets = [*output.layers, output.initial, output.proposals, *output.groups["dn"].layers]
    return [tensor for one in sets for tensor in (one.logits, one.boxes, one.edge_logits) if tensor is not None]


def test_what_is_captured() -> None:
    model = decoder()
    seen = step(model, want=with_attention(BOTH)).attention
    assert isinstance(seen, CapturedAttention)
    assert seen.places == {"dn": slice(0, 12), "": slice(12, 20)}
    assert [one.shape for one in (*seen.queries, *seen.keys)] == [(2, 4, 20, 4)] * 6
    assert [one.shape for one in seen.point_logits] == [(2, 20, 4, 3)] * 3
    assert seen.num_points == (2, 1)
    assert seen.scores == ()
    assert seen.attn_mask.shape == (20, 20)
    assert seen.attn_mask[12:, :12].all()
    assert not seen.attn_mask[12:, 12:].any()
    assert list(seen.masks) == list(seen.padding) == ["dn"]
    assert torch.equal(seen.masks["dn"], seen.attn_mask[:12, :12])
    assert seen.padding["dn"].tolist() == step(model).groups["dn"].group.padding.tolist()


@pytest.mark.parametrize("kind", ["self_attention", "self_attention_maps", "cross_attention"])
def test_only_what_was_asked_for_is_kept(kind: str) -> None:
    model = decoder()
    seen = step(model, want=with_attention([kind])).attention
    lengths = [len(one) for one in (seen.queries, seen.keys, seen.scores, seen.point_logits)]
    assert lengths == {"self_attention": [3, 3, 0, 0], "cross_attention": [0, 0, 0, 3]}.get(kind, [3, 3, 3, 0])
    assert bool(seen.num_points) == (kind == "cross_attention")


def test_captured_tensors_are_those_of_the_layer() -> None:
    torch.manual_seed(0)
    attention, (content, position) = QuerySelfAttention(16, 4), torch.randn(2, 2, 6, 16)
    record = AttentionRecorder(frozenset(BOTH))
    mask = torch.rand(6, 6) > 0.7
    mask.fill_diagonal_(False)
    output = attention(content, position, mask, record)
    deformable = DeformableAttention(16, 4, 2, [2, 1])
    nn.init.normal_(deformable.attention_weights.weight)
    deformable(content, torch.rand(2, 6, 4), [torch.randn(2, 16, 4, 4), torch.randn(2, 16, 2, 2)], record=record)
    seen = record.finish([], None)
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    reference.load_state_dict(attention.state_dict())
    placed = content + position
    expected, weights = reference(placed, placed, content, attn_mask=mask, average_attn_weights=False)
    scores = (seen.queries[0] @ seen.keys[0].mT / 2).masked_fill(mask, -torch.inf)
    torch.testing.assert_close(scores.softmax(-1), weights)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(seen.point_logits[0].flatten(2), deformable.attention_weights(content))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("counts", [(3, 1), (0, 0)])
def test_training_is_the_same_bit_for_bit(dropout: float, counts: tuple[int, int]) -> None:
    plain, seen = decoder(dropout=dropout), decoder(dropout=dropout)
    outputs = [step(plain, counts), step(seen, counts, with_attention(BOTH))]
    random = torch.rand(3)
    assert outputs[0].attention is None
    assert all(torch.equal(a, b) for a, b in zip(*(answers(one) for one in outputs)))
    for output in outputs:
        sum(tensor.square().sum() for tensor in answers(output)).backward()
    for (name, a), b in zip(plain.named_parameters(), seen.parameters()):
        assert a.grad is b.grad is None or torch.equal(a.grad, b.grad), name
    step(plain, counts)
    assert torch.equal(torch.rand(3), random), "capture draws random numbers"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_materialised_maps_give_the_same_output_up_to_rounding(dtype: torch.dtype) -> None:
    plain, seen = decoder(), decoder()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        outputs = [step(plain), step(seen, want=with_attention(["self_attention_maps"]))]
    near = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(outputs[1].layers[0].logits, outputs[0].layers[0].logits, rtol=near, atol=near)
    attention = outputs[1].attention
    scores = attention.queries[1].float() @ attention.keys[1].float().mT / 2
    torch.testing.assert_close(attention.scores[1].float(), scores, rtol=near, atol=near)


def test_materialised_maps_are_dropped_out_too() -> None:
    model = decoder(dropout=0.5)
    given, want = features(), with_attention(["self_attention_maps"])

    def logits() -> torch.Tensor:
        return model(given, targets(), want=want).layers[0].logits

    assert not torch.equal(logits(), logits())
    model.layers[0].self_attn.dropout = 0.0
    model.layers[0].dropout.p = 0.0
    assert torch.equal(logits(), logits())


def test_a_request_leaves_nothing_behind() -> None:
    plain, seen = decoder().eval(), decoder().eval()
    asked = seen(features(), want=with_attention([*BOTH, "self_attention_maps"]))
    assert len(asked.attention.scores) == 3
    before, after = plain(features()), seen(features())
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.boxes, after.boxes)
    assert list(plain.state_dict()) == list(seen.state_dict())
    assert torch.equal(seen.fused()(features()).boxes, plain.fused()(features()).boxes)
    assert step(seen.train()).attention is None


def test_eval_graph_is_the_same() -> None:
    plain, seen = (decoder(num_layers=1).eval() for _ in range(2))
    seen(features(), want=with_attention(BOTH))
    graphs = [torch.export.export(Answer(model), tuple(features())).graph for model in (plain, seen)]
    assert len(graphs[0].nodes) > 100
    assert [str(node.target) for node in graphs[0].nodes] == [str(node.target) for node in graphs[1].nodes]


def test_eval_mode_returns_attention_too() -> None:
    model = decoder()
    trained, evaluated = (
        step(mode, want=with_attention(BOTH)).attention for mode in (model, copy.deepcopy(model).eval())
    )
    for kind in ("queries", "keys", "point_logits"):
        torch.testing.assert_close(getattr(evaluated, kind), getattr(trained, kind))


def test_gradient_reaches_the_projections() -> None:
    model = decoder()
    seen = step(model, want=with_attention(BOTH)).attention
    (seen.queries[2].sum() + seen.keys[2].square().sum() + seen.point_logits[2].square().sum()).backward()
    assert model.layers[2].self_attn.in_proj_weight.grad[:32].abs().sum() > 0
    assert model.layers[2].cross_attn.attention_weights.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("setting", [{"aux_loss": False}, {"eval_idx": 0, "layer_scale": 1.5}, {"num_denoising": 0}])
def test_further_settings(setting: dict[str, object]) -> None:
    model = decoder(**setting)
    output = step(model, want=with_attention(BOTH))
    assert len(output.attention.queries) == model.num_attention_layers == 3
    assert len(output.layers) == (1 if setting == {"aux_loss": False} else 3)
    assert output.attention.keys[2].shape[-1] == (6 if "layer_scale" in setting else 4)
    assert (output.attention.attn_mask is None) == (setting == {"num_denoising": 0})


def test_what_a_model_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"Linear has no layers whose attention .* \(self_attention was asked for\)"):
        check_want(nn.Linear(2, 2), with_attention(["self_attention"]))
    message = (
        "the layers of DFINETransformer have no dense_cross_attention: "
        "choose among cross_attention, self_attention, self_attention_maps"
    )
    with pytest.raises(ValueError, match=message):
        check_want(nn.Sequential(decoder()), with_attention(["self_attention", "dense_cross_attention"]))
    with pytest.raises(ValueError, match=message):
        step(decoder(), want=with_attention(["self_attention", "dense_cross_attention"]))
    model = decoder()
    model.attention_kinds = frozenset({"cross_attention"})
    with pytest.raises(ValueError, match="have no self_attention: choose among cross_attention"):
        attention_of(model, ["self_attention"])
    check_want(nn.Linear(2, 2), TRAINING)
