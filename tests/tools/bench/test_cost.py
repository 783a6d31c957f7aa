# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring what distillation costs: the instruments, and a run with the micro model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import isdfine
from bench import cost
from bench.cost import METHODS, Cost, Workload, check_methods, measure, peak_of_allocations
from builders import write_micro_config
from isdfine.core.errors import ConfigError
from isdfine.optim.param_groups import named_as_saved

CPU = torch.device("cpu")


def micro(folder: Path) -> isdfine.Config:
    return isdfine.load_config(write_micro_config(folder), ["num_classes=2"])


def test_the_peak_counts_what_is_alive_at_once() -> None:
    def three_at_most() -> None:
        first, second = torch.ones(1000, 250), torch.ones(1000, 250)
        del first
        third = torch.ones(1000, 250)
        assert (second + third).sum() > 0

    assert peak_of_allocations(three_at_most) == pytest.approx(3_000_000, rel=0.01)
    assert peak_of_allocations(lambda: torch.ones(500, 500)) == pytest.approx(1_000_000, rel=0.01)


def test_the_peak_holds_what_backward_needs() -> None:
    layer, rows = torch.nn.Linear(200, 200, bias=False), torch.ones(1000, 200)

    def step() -> None:
        (layer(rows).exp().sum()).backward()
        layer.zero_grad()

    # exp's result is kept until its gradient, which has the same size, is there
    assert peak_of_allocations(step) == pytest.approx(2 * 800_000, rel=0.01)


def test_ratios_are_taken_round_by_round() -> None:
    slow, fast = Cost("a", (2.0, 40.0, 3.0), 1), Cost("b", (1.0, 20.0, 3.0), 1)
    assert (slow.median, slow.fastest) == (3, 2)
    assert slow.time_ratio(fast) == (2.0, 1.5, 2.0)
    assert Cost("a", (3.0,), 1).time_ratio(Cost("b", (2.0,), 1)) == (1.5, 1.5, 1.5)


def test_all_methods_share_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[cost._Bench] = []
    monkeypatch.setattr(cost, "_Bench", lambda *given, make=cost._Bench: made.append(make(*given)) or made[-1])
    torch.manual_seed(0)
    model = micro(tmp_path).with_values({"eval_spatial_size": [64, 64]}).build("model")
    cost._let_layers_differ(model)
    before = model.state_dict()
    names = ["none", "go-lsd", "go-lsd+attn"]
    found = measure(micro(tmp_path), names, Workload((64, 64), 1, steps=2, warmup=1, diagnose=True), CPU)
    assert [cost.method for cost in found] == [*names, "diagnostics"]
    assert all(len(cost.seconds) == 2 and min(cost.seconds) > 0 for cost in found)
    (bench,) = made
    for name, value in named_as_saved(bench.model):
        assert torch.equal(value, before[name]), name  # the learning rate is 0
    assert bench.optim.schedule.step == len(found) * (1 + 1 + 2)  # warm-up, one for the peak, two that count
    peaks = {cost.method: cost.peak_bytes for cost in found}
    assert peaks["none"] <= peaks["go-lsd"] <= peaks["go-lsd+attn"]
    assert min(peaks.values()) > 3 * sum(
        parameter.nbytes for parameter in bench.model.parameters()
    )  # two averages of Adam, EMA


def test_methods_differ_in_their_losses(tmp_path: Path) -> None:
    bench = cost._Bench(micro(tmp_path), Workload((64, 96), 2), CPU)
    objectives = {name: cost._Step(bench, name).objective for name in METHODS}
    kinds = {
        name: [type(distiller).__name__ for distiller in objective.distillers] for name, objective in objectives.items()
    }
    assert kinds["none"] == kinds["fdr-only"] == []
    assert kinds["go-lsd"] == ["GOLSD"]
    assert kinds["inter-s2d"] == ["InterLayerDistillation"]
    assert kinds["inter-d2s+attn+levels"] == ["InterLayerDistillation", "AttentionDistillation"]
    assert [name for name, objective in objectives.items() if not objective.criterion.use_uni_set] == ["fdr-only"]


def test_there_is_something_to_distil(tmp_path: Path) -> None:
    bench = cost._Bench(micro(tmp_path), Workload((64, 96), 2), CPU)
    seen: list[dict[str, float]] = []
    for name in METHODS:
        step = cost._Step(bench, name)
        terms = step.objective(bench.model(bench.images, bench.targets, want=step.trained.want), bench.targets, 0.0)
        seen.append(
            {
                term: float(value.detach())
                for term, value in terms.items()
                if term.startswith(("loss_ddf_a", "loss_isd", "loss_attn"))
            }
        )
    assert [bool(terms) for terms in seen] == [name not in ("none", "fdr-only") for name in METHODS]
    assert all(value > 0 for terms in seen for value in terms.values())


RESIDENT = """
import sys
from pathlib import Path
import torch
sys.path[:0] = sys.argv[2:]
import isdfine
from bench import cost
from builders import write_micro_config
config = isdfine.load_config(write_micro_config(Path(sys.argv[1])), ["num_classes=2"])
work = cost.Workload((64, 64), 1, warmup=1)
held = cost.resident_peak(config, "none", work)
more = torch.ones(64 << 20)  # 256 MB
print(held, cost.resident_peak(config, "none", work))
"""


def test_resident_memory_is_that_of_a_fresh_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RESIDENT, str(tmp_path), *sys.path]
    held, grown = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert 100 << 20 < held < grown
    assert grown - held > 56 << 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, "batch is 0: give 1 or more"),
        ({"steps": 0, "warmup": 0}, "steps is 0: give 1 or more; warmup is 0: give 1 or more"),
        ({"image_size": (640, 8)}, "image_size is 8: give 32 or more"),
        ({"boxes": -1}, "boxes is -1: give 0 or more"),
    ],
)
def test_workloads_that_cannot_be_measured(values: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Workload(**{"image_size": (64, 64), "batch": 1, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "message"), [(["golsd"], "methods: golsd: choose from fdr-only, none"), ([], "none giv")]
)
def test_unknown_methods(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(micro(tmp_path), names, Workload((64, 64), 1), CPU)
    with pytest.raises(ConfigError, match=message):
        check_methods(names)
