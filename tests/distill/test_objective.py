# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from isdfine.core import dist
from isdfine.core.errors import ConfigError
from isdfine.distill.context import DistillationContext, Distiller
from isdfine.distill.layers import GOLSD, InterLayerDistillation
from isdfine.distill.objective import Objective, default_distillers
from isdfine.nn.types import TRAINING, Want
from losses.cases import Case, images_of, official_criterion, random_case


class Watching(Distiller):
    """Keeps what it was given and adds one small term."""

    want = Want(attention=frozenset({"self_attention"}))

    def __init__(self, name: str = "loss_watch_0") -> None:
        super().__init__()
        self.name = name
        self.seen: list[DistillationContext] = []

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        self.seen.append(context)
        return {self.name: context.step.matching.boxes.iou.sum() * 0.125}


def objective(case: Case, *distillers: Distiller, **options: Any) -> Objective:
    return Objective(official_criterion(case.num_classes, case.reg_max, **options), distillers)


def test_official_files_get_go_lsd_where_the_criterion_weighs_it() -> None:
    assert [type(default_distiller) for default_distiller in default_distillers(official_criterion(4, 8))] == [GOLSD]
    local = {"losses": ["vfl", "local"], "weight_dict": {"loss_vfl": 1.0, "loss_fgl": 0.15}}
    assert default_distillers(official_criterion(4, 8, **local)) == []
    plain = {"losses": ["vfl"], "weight_dict": {"loss_vfl": 1.0}}
    assert default_distillers(official_criterion(4, 8, **plain)) == []
    case = random_case(0, dn_groups=1)
    criterion = official_criterion(4, 8)
    given, default = (Objective(criterion, one)(case.output, case.targets) for one in ([GOLSD()], None))
    assert given == default
    none = Objective(criterion, [])(case.output, case.targets)
    assert none == criterion(case.output, case.targets)
    assert none == {name: value for name, value in default.items() if "ddf" not in name}


def test_terms_stand_in_the_official_order() -> None:
    case = random_case(1, dn_groups=1)
    kinds, edges = ["vfl", "bbox", "giou"], ["vfl", "bbox", "giou", "fgl"]
    sets = {"_aux_0": [*edges, "ddf"], "_aux_1": [*edges, "ddf"], "": edges, "_pre": kinds, "_enc_0": kinds}
    sets |= {f"_dn_{i}": [*edges, "ddf"] for i in range(3)} | {"_dn_pre": kinds}
    expected = [f"loss_{kind}{suffix}" for suffix, of_set in sets.items() for kind in of_set]
    assert list(objective(case, GOLSD())(case.output, case.targets)) == expected
    with_ours = list(objective(case, Watching(), InterLayerDistillation())(case.output, case.targets))
    assert with_ours[4:6] == ["loss_isd_aux_0", "loss_vfl_aux_1"]
    assert with_ours[with_ours.index("loss_fgl") + 1] == "loss_watch_0"
    assert sorted(with_ours) == sorted(set(with_ours))


def test_distillers_see_the_matched_step_and_the_progress() -> None:
    case, watching = random_case(2, dn_groups=1), Watching()
    whole = objective(case, watching)
    whole(case.output, case.targets, 0.25)
    (context,) = watching.seen
    assert context.progress == 0.25
    assert context.student is case.output
    assert context.step.output is case.output
    assert [group.name for group in context.step.groups] == ["", "dn"]
    assert whole.want == Want(layers=True, attention=frozenset({"self_attention"}))
    assert objective(case, GOLSD()).want == TRAINING
    with torch.autocast("cpu", torch.bfloat16):
        terms = whole.terms(whole.context(case.output, case.targets))
    assert terms["loss_watch_0"].dtype == torch.float32


@pytest.mark.parametrize("make", [GOLSD, lambda: InterLayerDistillation(class_weight=0.5)], ids=["go", "inter"])
def test_all_losses_of_predictions_in_bfloat16_are_those_in_float32_to_one_percent(make: Any) -> None:
    case = random_case(13, counts=(3, 0, 5), dn_groups=1, num_classes=8, reg_max=32)
    exact = objective(case, make())(case.output, case.targets)

    def narrow(one: Any) -> Any:
        edges = None if one.edge_logits is None else one.edge_logits.bfloat16()
        return replace(one, logits=one.logits.bfloat16(), edge_logits=edges)

    output, dn = case.output, case.output.groups["dn"]
    rounded = replace(
        output,
        layers=[narrow(layer) for layer in output.layers],
        initial=narrow(output.initial),
        proposals=narrow(output.proposals),
        groups={"dn": replace(dn, layers=[narrow(layer) for layer in dn.layers], initial=narrow(dn.initial))},
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(case, make())(rounded, case.targets)
    assert list(found) == list(exact)
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=1e-2), name


def test_losses_of_two_distillers_of_one_class_are_told_apart() -> None:
    case = random_case(3, dn_groups=1)
    alone = [objective(case, method)(case.output, case.targets) for method in (GOLSD(), GOLSD(2.0, temperature=1.0))]
    both = objective(case, GOLSD(), Watching(), GOLSD(2.0, temperature=1.0))(case.output, case.targets)
    for name, value in alone[1].items():
        first, second = alone[0][name], both[name.replace("loss_ddf", "loss_2_ddf")]
        assert torch.equal(both[name], first)
        assert torch.equal(second, value)
    assert len(both) == len(alone[0]) + 1 + sum("ddf" in name for name in alone[1])
    names = list(both)
    assert names[names.index("loss_ddf_aux_0") + 1] == "loss_2_ddf_aux_0"


def test_names_may_not_clash() -> None:
    case = random_case(3)
    with pytest.raises(
        ConfigError, match=r"distillers.0 \(Watching\) returns loss_vfl, which is there already: give its"
    ):
        objective(case, Watching("loss_vfl"))(case.output, case.targets)


@pytest.mark.parametrize("losses", [torch.ones(()), {"loss_x": 0.5}, {"loss_x": torch.ones(2)}, None])
def test_losses_are_scalars_by_name(losses: object, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(3)
    monkeypatch.setattr(Watching, "forward", lambda *_: losses)
    with pytest.raises(
        ConfigError, match=r"^distillers.0 \(Watching\): forward must return a dict of losses by name, each a tensor of"
    ):
        objective(case, Watching())(case.output, case.targets)


def test_one_method_takes_the_others_place() -> None:
    case = random_case(3)
    text = "compares the edge distributions of the decoder layers, as"
    with pytest.raises(
        ValueError, match=rf"^distillers.1: InterLayerDistillation {text} GOLSD \(distillers.0\) does, and"
    ):
        objective(case, GOLSD(), InterLayerDistillation())
    with pytest.raises(ValueError, match=rf"^distillers.2: GOLSD {text} InterLayerDistillation \(distillers.0\) does"):
        objective(case, InterLayerDistillation(), Watching(), GOLSD())
    objective(case, Watching(), GOLSD())
    bare = {"losses": ["vfl"], "weight_dict": {"loss_vfl": 1.0}}
    with pytest.raises(ValueError, match=r"^distillers.1: GOLSD.weight is null and the criterion's weight_dict has no"):
        objective(case, Watching(), GOLSD(), **bare)


def test_a_distiller_must_return_its_losses() -> None:
    case = random_case(4)

    class Silent(Distiller):
        pass

    with pytest.raises(NotImplementedError, match=r"Silent must return its losses from forward\(context\)"):
        objective(case, Silent())(case.output, case.targets)


def train(case: Case, *distillers: Distiller, steps: int = 4, **options: Any) -> tuple[list[Tensor], Tensor]:
    """Leaves after some steps of gradient descent, and the random state."""
    torch.manual_seed(0)
    whole = objective(case, *distillers, **options)
    leaves = list(case.inputs.values())
    optimizer = torch.optim.AdamW(leaves, lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        terms = whole(case.output, case.targets, step / steps)
        total = torch.zeros(())
        for term in terms.values():
            total = total + term
        total.backward()
        optimizer.step()
    return [tensor.detach().clone() for tensor in leaves], torch.get_rng_state()


def test_off_means_the_identical_trajectory() -> None:
    def fresh() -> Case:
        return random_case(5, counts=(2, 4), dn_groups=2)

    plain, state = train(fresh())
    without = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15}
    off: list[tuple[list[Distiller], dict[str, Any]]] = [
        ([], {"weight_dict": without}),
        ([GOLSD(0.0)], {}),
        ([InterLayerDistillation(weight=0.0)], {}),
        ([InterLayerDistillation(ramp=(1.0, 1.0), class_weight=1.0)], {}),
    ]
    for distillers, options in off:
        leaves, after = train(fresh(), *distillers, **options)
        assert all(torch.equal(tensor, other) for tensor, other in zip(leaves, plain))
        assert torch.equal(after, state)
    moved, after = train(fresh(), InterLayerDistillation(class_weight=0.5))
    assert not all(torch.equal(one, other) for one, other in zip(moved, plain))
    assert torch.equal(after, state)  # nothing random in it


DISTILLERS = {
    "GO-LSD": lambda: GOLSD(dn_padding="exclude", dn_counts="own"),
    "deep_to_shallow": lambda: InterLayerDistillation(class_weight=0.5),
    "shallow_to_deep": lambda: InterLayerDistillation("shallow_to_deep", match_weight="better", dn_padding="include"),
    "matched": lambda: InterLayerDistillation(unmatched=False, span=2),
}


@pytest.mark.parametrize("make", DISTILLERS.values(), ids=list(DISTILLERS))
@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (11, 2)])
def test_the_mean_over_ranks_equals_one_process(monkeypatch: pytest.MonkeyPatch, counts: Any, make: Any) -> None:
    case = random_case(7, counts=counts, dn_groups=2)
    whole = objective(case, make())(case.output, case.targets)
    ranks = [images_of(case, slice(b, b + 1)) for b in range(2)]
    seen: list[Tensor] = []
    monkeypatch.setattr(dist, "mean", lambda counts: seen.append(counts) or counts)  # type: ignore[func-returns-value]
    for rank in ranks:
        objective(rank, make())(rank.output, rank.targets)
    assert len(seen) == 2  # one all-reduce per step
    average = torch.stack(seen).mean(0)
    monkeypatch.setattr(dist, "mean", lambda _: average)
    parts = [objective(rank, make())(rank.output, rank.targets) for rank in ranks]
    for name, value in whole.items():
        torch.testing.assert_close(
            (parts[0][name] + parts[1][name]) / 2, value, msg=lambda text, n=name: f"{n}: {text}"
        )


def both_ways(case: Case) -> dict[str, Tensor]:
    """Terms with GO-LSD and with inter-layer distillation."""
    methods = (GOLSD(), InterLayerDistillation(class_weight=0.5))
    return {name: one for method in methods for name, one in objective(case, method)(case.output, case.targets).items()}


def of_one_rank(rank: int, file: str, results: Any) -> None:
    """One process of two, each with its own image."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    terms = both_ways(images_of(random_case(8, counts=(3, 6), dn_groups=2), slice(rank, rank + 1)))
    results[rank] = {name: value.item() for name, value in terms.items()}
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_of_one_image_equal_one_of_two(tmp_path: Any) -> None:
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        ranks = [context.Process(target=of_one_rank, args=(rank, tmp_path / "store", results)) for rank in range(2)]
        for one in ranks:
            one.start()
        for one in ranks:
            one.join()
        parts = [results[0], results[1]]
    whole = both_ways(random_case(8, counts=(3, 6), dn_groups=2))
    for name, value in whole.items():
        assert (parts[0][name] + parts[1][name]) / 2 == pytest.approx(value.item(), rel=1e-5), name


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[str(func).split(".")[1]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (GOLSD, 600),
        (InterLayerDistillation, 600),
        (lambda: InterLayerDistillation("shallow_to_deep"), 600),
        *((make, 700) for make in DISTILLERS.values()),
    ],
)
def test_few_operators_and_none_that_waits_for_the_device(make: Any, most: int) -> None:
    case = random_case(12, counts=tuple(range(8)), queries=50, layers=6, dn_groups=1)
    whole = objective(case, make())
    with Operators() as seen:
        whole(case.output, case.targets)
    assert seen.names.total() - seen.names["detach"] <= most
    assert not {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero"} & set(seen.names)


def without_values(data: Any) -> Any:
    """The same with tensors that have shapes but no values: whatever reads one raises."""
    if isinstance(data, Tensor):
        return data.detach().to("meta").requires_grad_(data.requires_grad)
    if is_dataclass(data) and not isinstance(data, type):
        return replace(
            data, **{field.name: without_values(getattr(data, field.name)) for field in fields(data) if field.init}
        )
    if isinstance(data, dict):
        return {key: without_values(value) for key, value in data.items()}
    return type(data)(map(without_values, data)) if isinstance(data, (list, tuple)) else data


@pytest.mark.parametrize("make", DISTILLERS.values(), ids=list(DISTILLERS))
def test_after_matching_no_value_is_read(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(14, counts=(2, 3), dn_groups=1)
    whole = objective(case, make())
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no device without values
    step = without_values(whole.context(case.output, case.targets).step)
    terms = whole.terms(DistillationContext(step.output, step, 0.5))
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert total.is_meta
    assert len(terms) > 20


def test_it_has_no_weights_of_its_own() -> None:
    case = random_case(9)
    for method in (GOLSD(), InterLayerDistillation()):
        whole = objective(case, method, Watching())
        assert isinstance(whole.distillers, nn.ModuleList)
        assert whole.state_dict() == {}
