# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders import write_micro_config
from isdfine import load_config
from isdfine.core import dist
from isdfine.core.errors import ConfigError
from isdfine.core.registry import schema_of
from isdfine.distill import attention as attention_module
from isdfine.distill.attention import AttentionDistillation, attn_kl
from isdfine.distill.context import DistillationContext
from isdfine.distill.objective import Objective, build_objective
from isdfine.nn.capture import CapturedAttention
from isdfine.nn.types import DetectorOutput
from isdfine.zoo.dfine.decoder import DFINETransformer
from losses.cases import official_criterion
from nn.capture_cases import decoder, features, step, targets, with_attention

DEEP, SHALLOW = [(0, 1), (1, 2)], [(1, 0), (2, 1)]


def test_defaults() -> None:
    given = {name: option.default for name, option in schema_of(AttentionDistillation).parameters.items()}
    assert given == {
        "weight": 1.0,
        "direction": "deep_to_shallow",
        "span": 1,
        "temperature": 1.0,
        "self_attention": True,
        "cross_mode": "off",
        "dense_cross": False,
        "queries": "match",
        "query_subsample": None,
        "row_weight": "uniform",
        "ramp": (0.1, 0.2),
        "loss": "kl",
        "entropy_guard": False,
        "maps": "recompute",
    }


def prepared(distiller: AttentionDistillation, **setting: object) -> tuple[DFINETransformer, Objective]:
    model = decoder(**setting)
    return model, Objective(official_criterion(5, 8), [distiller])


def losses(objective: Objective, output: DetectorOutput, progress: float = 0.5, counts: Any = (3, 1)) -> dict:
    found = objective(output, targets(counts), progress)
    return {name: value for name, value in found.items() if "attn" in name}


def run(progress: float = 0.5, counts: tuple[int, int] = (3, 1), setting: Any = None, **options: Any) -> tuple:
    """Losses by name with a factor of 1 for every pair, the output and the context."""
    distiller = AttentionDistillation(**{"ramp": [0, 0], "weight": 2.0, **options})
    model, objective = prepared(distiller, **(setting or {}))
    output = step(model, counts, objective.want)
    found = losses(objective, output, progress, counts)
    return found, output, objective.context(output, targets(counts), progress)


def scores(seen: CapturedAttention, layer: int, rows: Any = slice(None), keys: Any = slice(None)) -> Tensor:
    return seen.queries[layer][:, :, rows] @ seen.keys[layer][:, :, keys].mT / 2


def full_mask(output: DetectorOutput) -> tuple[Tensor, Tensor]:
    """What is masked in the whole matrix (B, 1, Q, Q) and which rows are real (B, 1, Q)."""
    padded = torch.cat((output.groups["dn"].group.padding, torch.zeros(2, 8, dtype=torch.bool)), dim=1)
    return output.attention.attn_mask | padded[:, None, None], (~padded).float()[:, None]


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0}, {"direction": "shallow_to_deep"}, {"span": 2}], ids=str)
def test_matching_queries(options: dict) -> None:
    found, output, _ = run(**options)
    pairs = SHALLOW if "direction" in options else [(0, 2), (1, 2)] if "span" in options else DEEP
    assert list(found) == [f"loss_attn_{student}" for student, _ in pairs]
    seen, part = output.attention, slice(12, 20)
    for (student, teacher), value in zip(pairs, found.values()):
        maps = [scores(seen, layer, part, part) for layer in (student, teacher)]
        torch.testing.assert_close(value, attn_kl(*maps, None, options.get("temperature", 1.0)))


def test_the_block_is_the_full_row() -> None:
    """Matching queries do not read the others, so their rows of the whole matrix say the same."""
    found, output, _ = run()
    rows = torch.cat((torch.zeros(12), torch.ones(8)))
    maps = [scores(output.attention, layer) for layer in (0, 1)]
    torch.testing.assert_close(found["loss_attn_0"], attn_kl(*maps, output.attention.attn_mask, row_w=rows))


@pytest.mark.parametrize("kind", ["kl", "js", "mse"])
@pytest.mark.parametrize("setting", [{"num_denoising": 0}, {"num_denoising": 12}])
def test_denoising_groups_do_not_matter_in_match_mode(kind: str, setting: dict) -> None:
    few, many = run(loss=kind)[0], run(loss=kind, setting=setting)[0]
    torch.testing.assert_close(few, many)
    assert all(value > 0.01 for value in few.values())


def test_all_queries() -> None:
    found, output, _ = run(queries="all")
    mask, real = full_mask(output)
    assert (real == 0).any()
    for (student, teacher), value in zip(DEEP, found.values()):
        maps = [scores(output.attention, layer) for layer in (student, teacher)]
        torch.testing.assert_close(value, attn_kl(*maps, mask, row_w=real))
    plain = run(queries="all", setting={"num_denoising": 0})[0]
    torch.testing.assert_close(plain, run(setting={"num_denoising": 0})[0])


@pytest.mark.parametrize("counts", [(0, 0), (2, 0)])
@pytest.mark.parametrize("queries", ["match", "all"])
@pytest.mark.parametrize("row_weight", ["uniform", "conf", "matched_only"])
def test_batches_without_boxes(counts: tuple[int, int], queries: str, row_weight: str) -> None:
    found = run(counts=counts, queries=queries, row_weight=row_weight, cross_mode="levels")[0]
    total = sum(found.values())
    total.backward()
    assert total.isfinite()
    if counts == (0, 0) and row_weight == "matched_only":
        assert total == 0, "connected to the graph: backward ran"
    else:
        assert all(value > 0 for value in found.values())


@pytest.mark.parametrize("options", [{"temperature": 2.0}, {"temperature": 4.0}, {"weight": 1e3}], ids=str)
def test_no_row_of_weight_gives_zeros_and_zero_gradients(options: dict) -> None:
    """A tiny number as the sum of weights made infinity times 0 of it."""
    distiller = AttentionDistillation(ramp=[0, 0], row_weight="matched_only", cross_mode="points", **options)
    model, objective = prepared(distiller)
    found = losses(objective, step(model, (0, 0), objective.want), counts=(0, 0))
    assert all(value == 0 for value in found.values())
    scaled = {name: value * 65536 for name, value in found.items()}  # as half precision does
    got = [one for one in gradients(model, scaled).values() if one is not None]
    assert len(got) > 4
    assert not any(one.any() for one in got), "zero, and not NaN"


@pytest.mark.parametrize("mode", ["levels", "points"])
@pytest.mark.parametrize("queries", ["match", "all"])
def test_deformable_weights(mode: str, queries: str) -> None:
    found, output, _ = run(cross_mode=mode, self_attention=False, queries=queries, temperature=2.0)
    assert list(found) == ["loss_attn_cross_0", "loss_attn_cross_1"]
    rows = slice(0 if queries == "all" else 12, 20)
    real = full_mask(output)[1][..., rows]
    maps = []
    for logits in output.attention.point_logits:
        p = logits[:, rows].transpose(1, 2).softmax(-1)  # (B, heads, R, P)
        summed = torch.stack((p[..., :2].sum(-1), p[..., 2]), dim=-1)
        maps.append((summed if mode == "levels" else p).log())
    for (student, teacher), value in zip(DEEP, found.values()):
        torch.testing.assert_close(value, attn_kl(maps[student], maps[teacher], None, 2.0, real))


def test_rows_weighted_by_confidence_of_the_teacher() -> None:
    for direction, pairs in (("deep_to_shallow", DEEP), ("shallow_to_deep", SHALLOW)):
        found, output, _ = run(queries="all", row_weight="conf", direction=direction)
        mask, real = full_mask(output)
        for (student, teacher), value in zip(pairs, found.values()):
            sets = [output.groups["dn"].layers[teacher], output.layers[teacher]]
            sure = torch.cat([one.logits.amax(-1).sigmoid() for one in sets], dim=1)[:, None]
            maps = [scores(output.attention, layer) for layer in (student, teacher)]
            torch.testing.assert_close(value, attn_kl(*maps, mask, row_w=sure * real))


def test_rows_of_matched_queries_only() -> None:
    found, output, context = run(row_weight="matched_only")
    part = slice(12, 20)
    matched = context.step.matching.matched().view(2, 1, 8).float()
    assert 0 < matched.sum() < 16
    maps = [scores(output.attention, layer, part, part) for layer in (0, 1)]
    torch.testing.assert_close(found["loss_attn_0"], attn_kl(*maps, row_w=matched))
    positive = run(row_weight="matched_only", queries="all", cross_mode="points")
    output, context = positive[1:]
    dn = output.groups["dn"].group.assigned >= 0
    rows = torch.cat((dn, context.step.matching.matched().view(2, 8)), dim=1)[:, None].float()
    maps = [output.attention.point_logits[layer].transpose(1, 2) for layer in (0, 1)]
    torch.testing.assert_close(positive[0]["loss_attn_cross_0"], attn_kl(*maps, row_w=rows))


def test_some_rows_only() -> None:
    torch.manual_seed(8)
    state = torch.get_rng_state()
    chosen = {}
    for progress in (0.25, 0.25, 0.3):
        rows = attention_module.Rows(run()[1].attention, 3, progress, every_group=False).index
        assert len(rows.unique()) == 3
        assert set(rows.tolist()) <= set(range(8))
        chosen.setdefault(progress, rows)
        assert torch.equal(rows, chosen[progress])
    assert not torch.equal(*chosen.values())
    torch.set_rng_state(state)
    output, part = run()[1], slice(12, 20)
    distiller = AttentionDistillation(2.0, ramp=[0, 0], query_subsample=3, cross_mode="points", row_weight="conf")
    objective = Objective(official_criterion(5, 8), [distiller])
    full = prepared(distiller)[0]
    output = step(full, want=objective.want)
    state = torch.get_rng_state()
    found = losses(objective, output, 0.25)
    assert torch.equal(torch.get_rng_state(), state), "the run's random numbers are its own"
    sure = output.layers[1].logits.amax(-1).sigmoid()[:, None, chosen[0.25]]
    maps = [scores(output.attention, layer, part, part)[:, :, chosen[0.25]] for layer in (0, 1)]
    torch.testing.assert_close(found["loss_attn_0"], attn_kl(*maps, row_w=sure))
    points = [output.attention.point_logits[layer][:, part][:, chosen[0.25]].transpose(1, 2) for layer in (0, 1)]
    torch.testing.assert_close(found["loss_attn_cross_0"], attn_kl(*points, row_w=sure))
    everything = run(query_subsample=8)[0]
    torch.testing.assert_close(everything, run()[0])


def gradients(model: nn.Module, found: dict[str, Tensor]) -> dict[str, Tensor | None]:
    model.zero_grad()
    sum(found.values()).backward(retain_graph=True)
    return {name: one.grad for name, one in model.state_dict(keep_vars=True).items()}


@pytest.mark.parametrize("queries", ["match", "all"])
@pytest.mark.parametrize("cross_mode", ["off", "points"])
def test_explicit_maps_give_the_same_loss(queries: str, cross_mode: str) -> None:
    results = []
    for maps in ("recompute", "explicit"):
        distiller = AttentionDistillation(ramp=[0, 0], maps=maps, queries=queries, cross_mode=cross_mode)
        model, objective = prepared(distiller)
        output = step(model, want=objective.want)
        assert bool(output.attention.scores) == (maps == "explicit")
        found = losses(objective, output)
        results.append((found, gradients(model, found)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    for name, gradient in results[0][1].items():
        if gradient is not None:
            torch.testing.assert_close(gradient, results[1][1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("direction", ["deep_to_shallow", "shallow_to_deep"])
def test_a_teacher_gets_no_gradient(direction: str) -> None:
    distiller = AttentionDistillation(ramp=[0, 0], direction=direction, cross_mode="levels")
    model, objective = prepared(distiller, num_layers=2)
    cut = lambda _, args: tuple(one.detach() if isinstance(one, Tensor) else one for one in args)  # noqa: E731
    model.layers[1].register_forward_pre_hook(cut)
    got = gradients(model, losses(objective, step(model, want=objective.want)))
    student = 0 if direction == "deep_to_shallow" else 1
    for name, gradient in got.items():
        if name.startswith(f"decoder.layers.{1 - student}."):
            assert gradient is None or not gradient.any(), name
    layer = f"decoder.layers.{student}."
    for name in ("self_attn.in_proj_weight", "cross_attn.attention_weights.weight"):
        assert got[layer + name].any(), name
    assert got["dec_bbox_head.0.layers.0.weight"] is None


def test_equal_layers_cost_nothing() -> None:
    model, objective = prepared(AttentionDistillation(ramp=[0, 0], cross_mode="points"))
    output = step(model, want=objective.want)
    seen = output.attention
    for field in (seen.queries, seen.keys, seen.point_logits):
        for layer in field[1:]:
            layer.data.copy_(field[0].data)
    assert all(value.abs() < 1e-6 for value in losses(objective, output).values())


def test_weight_ramp_and_number_of_pairs() -> None:
    once = run(weight=1.0, setting={"num_layers": 4})[0]
    assert len(once) == 3
    for progress, factor in ((0.05, 0.0), (0.1, 0.0), (0.15, 0.5), (0.2, 1.0), (0.9, 1.0)):
        found = run(progress, weight=3.0, ramp=[0.1, 0.2], setting={"num_layers": 4})[0]
        torch.testing.assert_close(found, {name: value * 3 * factor for name, value in once.items()})
    found, output, _ = run(setting={"num_layers": 4})
    part = slice(12, 20)
    maps = [scores(output.attention, layer, part, part) for layer in range(4)]
    pairs = [attn_kl(maps[layer], maps[layer + 1]) for layer in range(3)]
    torch.testing.assert_close(sum(found.values()), 2 * sum(pairs) / 3)


@pytest.mark.parametrize("guarded", [False, True])
def test_uninformative_teachers_are_skipped(guarded: bool) -> None:
    distiller = AttentionDistillation(2.0, ramp=[0, 0], entropy_guard=guarded, cross_mode="points")
    model, objective = prepared(distiller)
    with torch.no_grad():
        model.layers[2].self_attn.in_proj_weight[:32] = 0  # flat attention
    output = step(model, want=objective.want)
    found = losses(objective, output)
    kept = distiller.diagnostics(objective.context(output, targets(), 0.5))
    if not guarded:
        assert kept == {}
        assert found["loss_attn_1"] > 0
        return
    assert {name: value.item() for name, value in kept.items()} == {
        "attn_kept_0": 1,
        "attn_kept_1": 0,
        "attn_cross_kept_0": 1,
        "attn_cross_kept_1": 1,
    }
    assert found["loss_attn_1"] == 0
    part = slice(12, 20)
    expected = attn_kl(*(scores(output.attention, layer, part, part) for layer in (0, 1)))
    torch.testing.assert_close(found["loss_attn_0"], expected)
    got = gradients(model, {"one": found["loss_attn_1"]})
    assert all(one is None or not one.any() for one in got.values())


def permuted(output: DetectorOutput, order: Tensor) -> DetectorOutput:
    """The matching queries in another order, in the captured attention."""
    seen = output.attention
    whole = torch.cat((torch.arange(12), 12 + order))
    attention = dataclasses.replace(
        seen,
        queries=tuple(one[:, :, whole] for one in seen.queries),
        keys=tuple(one[:, :, whole] for one in seen.keys),
        point_logits=tuple(one[:, whole] for one in seen.point_logits),
    )
    return dataclasses.replace(output, attention=attention)


@pytest.mark.parametrize("queries", ["match", "all"])
def test_a_joint_permutation_of_queries_changes_nothing(queries: str) -> None:
    distiller = AttentionDistillation(ramp=[0, 0], queries=queries, cross_mode="levels")
    model, objective = prepared(distiller)
    output = step(model, want=objective.want)
    moved = permuted(output, torch.randperm(8))
    assert not torch.equal(moved.attention.queries[0], output.attention.queries[0])
    torch.testing.assert_close(losses(objective, moved), losses(objective, output))


def trajectory(distillers: list[AttentionDistillation], progress: float) -> list[Tensor]:
    """Parameters after three steps with dropout, and the next random numbers."""
    model, criterion = decoder(dropout=0.1), official_criterion(5, 8)
    objective = Objective(criterion, distillers)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    given = features()
    torch.manual_seed(2)
    for _ in range(3):
        optimizer.zero_grad()
        sum(objective(model(given, targets(), want=objective.want), targets(), progress).values()).backward()
        optimizer.step()
    return [*(one.detach() for one in model.parameters()), torch.rand(4)]


def test_off_is_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    off = trajectory([], 0.0)
    options = {"cross_mode": "levels", "query_subsample": 4, "queries": "all"}
    on = trajectory([AttentionDistillation(**options)], 0.5)
    assert torch.equal(off[-1], on[-1])
    assert not all(torch.equal(a, b) for a, b in zip(off, on))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is computed while the factor is 0")

    monkeypatch.setattr(attention_module, "compare_layers", refuse)
    for distiller, progress in ((AttentionDistillation(**options), 0.1), (AttentionDistillation(0.0, **options), 0.9)):
        assert all(torch.equal(a, b) for a, b in zip(off, trajectory([distiller], progress)))


@pytest.mark.parametrize("row_weight", ["uniform", "conf", "matched_only"])
def test_two_ranks_of_one_image_are_one_of_two(row_weight: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are summed over the ranks, as gradients are averaged over them."""
    distiller = AttentionDistillation(ramp=[0, 0], row_weight=row_weight, queries="all", cross_mode="points")
    model, objective = prepared(distiller)
    output = step(model, want=objective.want)
    whole = losses(objective, output)
    context = objective.context(output, targets(), 0.5)
    halves = []
    for kind in distiller.kinds:
        maps, weights = distiller._weighted(kind, DEEP, context)
        for image in (0, 1):
            part = slice(image, image + 1)
            cut = [one if one.shape[0] == 1 else one[part] for one in weights]
            halves.append((kind, maps, cut, part))
    means = {
        kind: torch.stack([sum(c[i].expand(1, 1, -1).sum() * 4 for k, _, c, _ in halves if k == kind) for i in (0, 1)])
        / 2
        for kind in distiller.kinds
    }
    per_rank: list[dict[str, Tensor]] = []
    for image in (0, 1):
        mine = {kind: (maps, cut, part) for kind, maps, cut, part in halves if part.start == image}

        def weighted(kind: str, *_: object, mine: Any = mine) -> tuple:
            maps, cut, part = mine[kind]
            tensors = [tuple(one[part] for one in layer) for layer in maps.tensors]
            mask = maps.mask if maps.mask is None or maps.mask.shape[0] == 1 else maps.mask[part]
            return type(maps)(tensors, maps.scores_of, mask, (1, *maps.shape[1:])), cut

        order = iter(distiller.kinds)
        monkeypatch.setattr(distiller, "_weighted", weighted)
        monkeypatch.setattr(dist, "mean", lambda _, order=order: means[next(order)])
        per_rank.append(distiller(DistillationContext(output, context.step, 0.5)))
    for name, value in whole.items():
        torch.testing.assert_close((per_rank[0][name] + per_rank[1][name]) / 2, value)


@pytest.mark.parametrize("maps", ["recompute", "explicit"])
def test_bfloat16_is_near_float32(maps: str) -> None:
    distiller = AttentionDistillation(ramp=[0, 0], maps=maps, cross_mode="levels")
    model, objective = prepared(distiller)
    exact = losses(objective, step(model, want=objective.want))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = step(model, want=objective.want)
        near = losses(objective, output)
    assert output.attention.queries[0].dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in near.values())
    torch.testing.assert_close(near["loss_attn_0"], exact["loss_attn_0"], rtol=0.05, atol=1e-2)
    assert all(one.isfinite().all() for one in gradients(model, near).values() if one is not None)


def test_wide_layers_and_copies() -> None:
    """Layers after ``eval_idx`` may have more channels per head: their maps have the same shape."""
    distiller = copy.deepcopy(AttentionDistillation(ramp=[0, 0], cross_mode="points"))
    model, objective = prepared(distiller, eval_idx=0, layer_scale=1.5)
    named = losses(objective, step(model, want=objective.want))
    assert list(named) == [f"loss_attn{kind}_{i}" for kind in ("", "_cross") for i in (0, 1)]


def test_without_auxiliary_losses() -> None:
    found = run(setting={"aux_loss": False})[0]
    assert list(found) == ["loss_attn_0", "loss_attn_1"]
    message = "conf reads the predictions of all 3 decoder layers, but the output has those of 1: set aux_loss: True"
    with pytest.raises(ValueError, match=message):
        run(setting={"aux_loss": False}, row_weight="conf", direction="shallow_to_deep")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "both"}, "direction: 'both' is none of 'deep_to_shallow', 'shallow_to_deep'"),
        ({"cross_mode": "dense"}, "cross_mode: 'dense' is none of 'off', 'levels', 'points'"),
        ({"queries": "dn"}, "queries: 'dn' is none of 'match', 'all'"),
        ({"row_weight": "iou"}, "row_weight: 'iou' is none of 'uniform', 'conf', 'matched_only'"),
        ({"loss": "l1"}, "loss: 'l1' is none of 'kl', 'js', 'mse'"),
        ({"maps": "fused"}, "maps: 'fused' is none of 'recompute', 'explicit'"),
        (
            {"maps": "explicit", "self_attention": False, "cross_mode": "levels"},
            "maps: explicit concerns self_attention",
        ),
        ({"span": 0}, "span is 0: give the distance"),
        ({"weight": -1.0}, "weight is -1.0: give 0 or more"),
        ({"temperature": 0.0}, "temperature is 0.0: give a number above 0"),
        ({"query_subsample": 0}, "query_subsample is 0: give a number above 0"),
        ({"ramp": [0.3, 0.2]}, r"ramp is \[0.3, 0.2\]"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"AttentionDistillation.{message}"):
        AttentionDistillation(**options)


def test_nothing_to_compare() -> None:
    message = "compares nothing: set self_attention: True, cross_mode: levels or dense_cross: True, or take it out"
    with pytest.raises(ValueError, match=message):
        AttentionDistillation(self_attention=False)


def test_models_that_cannot_serve_it() -> None:
    criterion = official_criterion(5, 8)
    message = "AttentionDistillation.self_attention: True: Linear has no layers whose attention can be captured"
    with pytest.raises(ValueError, match=message):
        AttentionDistillation().check(nn.Linear(2, 2), criterion)
    message = (
        "AttentionDistillation.dense_cross: True: the layers of DFINETransformer have no dense_cross_attention: "
        "choose among cross_attention, self_attention"
    )
    with pytest.raises(ValueError, match=message):
        AttentionDistillation(dense_cross=True).check(decoder(), criterion)
    dense = decoder()
    dense.attention_kinds = frozenset({"self_attention", "dense_cross_attention"})
    with pytest.raises(
        ValueError, match=r"AttentionDistillation.cross_mode: the layers .* have no cross_attention: cho"
    ):
        AttentionDistillation(cross_mode="levels").check(dense, criterion)
    with pytest.raises(ValueError, match=r"AttentionDistillation.maps: explicit: the layers .* no self_attention_maps"):
        AttentionDistillation(maps="explicit").check(dense, criterion)
    with pytest.raises(ValueError, match="compares decoder layers, but DFINETransformer has 1: set num_layers to 2"):
        AttentionDistillation().check(decoder(num_layers=1), criterion)
    AttentionDistillation(cross_mode="points", maps="explicit").check(decoder(), criterion)
    for row_weight in ("conf", "matched_only"):
        message = (
            rf"row_weight: {row_weight} reads the predictions of all 3 .* set its aux_loss: True, or row_weight: u"
        )
        with pytest.raises(ValueError, match=message):
            AttentionDistillation(row_weight=row_weight).check(decoder(aux_loss=False), criterion)
        AttentionDistillation(row_weight=row_weight).check(decoder(), criterion)
    AttentionDistillation().check(decoder(aux_loss=False), criterion)


def test_output_without_attention() -> None:
    model, objective = prepared(AttentionDistillation())
    with pytest.raises(ValueError, match="needs the decoder's attention, which the output does not hold: call"):
        losses(objective, step(model))
    with pytest.raises(ValueError, match="compares self_attention, which was not captured: call"):
        losses(objective, step(model, want=with_attention(["cross_attention"])))


def configured(folder: Path, argument: str) -> Objective:
    path = write_micro_config(folder)
    text = f"{path.read_text()}distillers:\n- type: GOLSD\n- type: AttentionDistillation\n  {argument}\n"
    path.write_text(text)
    config = load_config(path)
    return build_objective(config, config.build("model"))


@pytest.mark.parametrize("word", ["off", "'off'", "levels"])
def test_from_a_file(tmp_path: Path, word: str) -> None:
    objective = configured(tmp_path, f"cross_mode: {word}")
    cross = {"cross_attention"} if word == "levels" else set()
    assert objective.want.attention == {"self_attention", *cross}
    update = f"distillers=[{{type: AttentionDistillation, cross_mode: {word}}}]"
    config = load_config(tmp_path / "micro.yml", [update])
    assert build_objective(config, config.build("model")).want.attention == {"self_attention", *cross}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("cross_mode: dense", r"distillers.1.cross_mode: expected one of 'off', 'levels', 'points'.* found 'dense'"),
        ("direction: up", r"distillers.1.direction: expected one of 'deep_to_shallow', 'shallow_to_deep'"),
        ("span: 0", r"distillers.1: AttentionDistillation.span is 0"),
        ("dense_cross: true", r"distillers.1: AttentionDistillation.dense_cross: True: the layers of DFINETransformer"),
        ("temperature: 0", r"distillers.1: AttentionDistillation.temperature is 0: give a number above 0"),
        ("weight: -0.5", r"distillers.1: AttentionDistillation.weight is -0.5: give 0 or more"),
        ("query_subsample: 0", r"distillers.1: AttentionDistillation.query_subsample is 0: give a number above 0"),
        (
            "row_weight: iou",
            r"distillers.1.row_weight: expected one of 'uniform', 'conf', 'matched_only'.* found 'iou'",
        ),
        ("omega_q: conf", r"distillers.1.omega_q: no such argument of AttentionDistillation; known: .*row_weight"),
    ],
)
def test_mistakes_in_a_file_name_their_place(tmp_path: Path, argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"micro.yml:\d+: " + message):
        configured(tmp_path, argument)
