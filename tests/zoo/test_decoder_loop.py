# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from golden_cases import fill
from isdfine.nn.edges import decode_corners
from isdfine.nn.queries import JoinedQueries
from isdfine.nn.types import TRAINING, QueryGroup, Want
from isdfine.zoo.dfine.decoder import DFINETransformer
from isdfine.zoo.inputs import DecoderInputs, enlarge_channels


def stack(**more: object) -> tuple:
    """A small decoder, its heads, and something to refine."""
    settings = {"hidden_dim": 16, "nhead": 4, "num_queries": 6, "feat_channels": [16], "feat_strides": [8]}
    settings |= {"num_levels": 1, "num_points": 2, "num_layers": 3, "dim_feedforward": 24, "reg_max": 8}
    whole = DFINETransformer(3, **(settings | more))
    fill.fill_module(whole)
    torch.manual_seed(0)
    queries = JoinedQueries(torch.randn(2, 6, 16), torch.randn(2, 6, 4), None, [6], [None])
    return whole, queries, [torch.randn(2, 16, 4, 4)]


def run(whole: DFINETransformer, queries: JoinedQueries, values: list[torch.Tensor]) -> tuple:
    """Predictions of the layers and of the first head: all in train mode, those of the evaluated layer in eval mode."""
    depth = len(whole.layers) if whole.training else whole.eval_idx + 1
    refined = whole._refine(queries, DecoderInputs(values, None, None, None), depth)
    group = QueryGroup("", queries.content, queries.reference_logits)
    output = whole._output([group], queries, refined, Want(layers=whole.training), None)
    return output.layers, output.initial


def test_enlarge_duplicates_channels() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert enlarge_channels(x, 6).tolist() == [[1, 1, 2, 2, 3, 3]]
    assert enlarge_channels(x, 3) is x
    maps = torch.randn(2, 4, 3, 3)
    want = torch.nn.functional.interpolate(maps.flatten(2).mT, size=6).mT
    assert torch.equal(enlarge_channels(maps, 6, axis=1).flatten(2), want)


def test_every_layer_refines_the_same_box() -> None:
    whole, queries, values = stack()
    layers, initial = run(whole, queries, values)
    assert len(layers) == 3
    for one in layers:
        assert torch.equal(one.initial_boxes, initial.boxes)
        assert not one.initial_boxes.requires_grad
    assert initial.edge_logits is None
    assert initial.boxes.requires_grad


def test_gradients_flow_as_specified() -> None:
    """Deep layers reach shallow edge heads through the sum of logits, but neither the first head nor its box."""
    whole, queries, values = stack()
    layers, _ = run(whole, queries, values)
    layers[-1].boxes.sum().backward()
    assert all(head.layers[0].weight.grad is not None for head in whole.box_head.layers)
    assert whole.box_head.initial.layers[0].weight.grad is None
    assert whole.position.layers[0].weight.grad is not None


def test_boxes_are_decoded_in_float32_under_autocast() -> None:
    whole, queries, values = stack()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers, _ = run(whole, queries, values)
    for one in layers:
        edges = one.edge_logits.unflatten(-1, (4, 9))
        want = decode_corners(one.initial_boxes, edges, whole.box_head.bins(), whole.box_head.bins.reg_scale)
        torch.testing.assert_close(one.boxes, want, atol=1e-6, rtol=1e-6)


def test_last_addend_is_detached() -> None:
    """The state that is added to a layer's output carries no gradient: only one path leads to layer 0."""
    whole, queries, values = stack(num_layers=2)
    seen = []
    whole.box_head.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    whole.layers[1].register_forward_hook(lambda _, args, out: out.detach())
    run(whole, queries, values)
    assert not seen[0].requires_grad


def test_eval_stops_at_eval_idx() -> None:
    whole, queries, values = stack(eval_idx=1)
    every, _ = run(whole, queries, values)
    whole.eval()
    whole.layers[2].register_forward_hook(lambda *_: pytest.fail("layer 2 ran in eval mode"))
    layers, initial = run(whole, queries, values)
    assert initial is None
    torch.testing.assert_close(layers[0].logits, every[1].logits)
    torch.testing.assert_close(layers[0].boxes, every[1].boxes)


def test_wide_layers() -> None:
    whole, queries, values = stack(eval_idx=0, layer_scale=2, num_denoising=0)
    assert [one.dim for one in whole.layers] == [16, 32, 32]
    assert [one.linear1.out_features for one in whole.layers] == [24, 48, 48]
    assert [head.in_features for head in whole.score_head.layers] == [16, 32, 32]
    assert [head.layers[0].out_features for head in whole.box_head.layers] == [16, 32, 32]
    seen = []
    for head in whole.box_head.layers:
        head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    outs = []
    for one in whole.layers:
        one.register_forward_hook(lambda _, args, out: outs.append((args[0], out)))
    layers, _ = run(whole, queries, values)
    assert [one.edge_logits.shape for one in layers] == [(2, 6, 36)] * 3
    assert torch.equal(outs[1][0], outs[0][1].repeat_interleave(2, dim=-1))
    assert torch.equal(seen[1], outs[1][1] + outs[1][0])
    assert torch.equal(seen[2], outs[2][1] + outs[1][1])


def test_without_aux_loss_the_last_layer_alone_answers() -> None:
    whole, queries, values = stack()
    every, _ = run(whole, queries, values)
    whole.aux_loss = False
    layers, initial = run(whole, queries, values)
    assert len(layers) == 1
    assert torch.equal(layers[0].logits, every[-1].logits)
    assert initial is not None


def test_deployed_form() -> None:
    whole, queries, values = stack(eval_idx=1)
    whole.eval()
    want, _ = run(whole, queries, values)
    fused = whole.fused()
    got, initial = run(fused, queries, values)
    assert initial is None
    assert torch.equal(got[0].logits, want[0].logits)
    assert torch.equal(got[0].boxes, want[0].boxes)
    assert not any("table" in name or name.startswith("decoder.layers.2") for name in fused.state_dict())
    with pytest.raises(RuntimeError, match=r"fused form has no training heads: call eval\(\), or train the model"):
        fused.train()(values)
    with pytest.raises(RuntimeError, match=r"fused form has no training heads"):
        fused.eval()(values, want=TRAINING)
