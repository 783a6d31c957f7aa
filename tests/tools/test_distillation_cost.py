# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""tools/benchmark/distillation_cost.py with the micro model."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from builders import load_tool, write_micro_config
from isdfine.bench.step import TrainingStep
from isdfine.bench.timing import Timing
from isdfine.optim.param_groups import named_as_saved


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The tool as a module."""
    return load_tool("benchmark/distillation_cost")


def arguments(folder: Path, *more: str) -> list[str]:
    small = ["--image", "64", "64", "--batch", "1", "--boxes", "3", "--steps", "2", "--warmup", "1", "--device", "cpu"]
    return ["-c", str(write_micro_config(folder)), "-u", "num_classes=2", *small, *more]


def test_a_table_of_methods(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(arguments(tmp_path, "--methods", "none", "go-lsd", "--diagnostics", "--markdown")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].replace(" ", "").startswith("|method|msperstep|time/go-lsd|quartiles|fastest|peakMB|")
    assert set(lines[1]) <= set("|-: ")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    assert [row[0] for row in cells] == ["none", "go-lsd", "diagnostics"]
    assert (cells[1][2], cells[1][4], cells[1][6]) == ("1.000", "1.000", "1.000")
    assert "micro, 1 x 64 x 64 pixels, 3 boxes an image, fp32, 2 rounds; " in lines[6]


def test_methods_with_a_teacher(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    methods = ["none", "LogitDistillation", "LogitDistillation+cached"]
    more = ["--teacher", str(write_micro_config(teacher)), "--baseline", "none", "--methods", *methods]
    assert tool.main(arguments(tmp_path, *more)) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    assert [row[0] for row in rows] == methods
    assert float(rows[1][-2]) >= float(rows[2][-2]) > float(rows[0][-2]), "the teacher's weights count"


def test_plain_text_without_the_baseline(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(arguments(tmp_path, "--methods", "inter-d2s")) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[0] == "inter-d2s"
    assert len(row) == 3  # no ratios


def test_resident_memory_is_one_more_column(tool: ModuleType) -> None:
    costs = [
        tool.Cost("none", Timing.of([1.0]), 100 << 20, 300 << 20),
        tool.Cost("go-lsd", Timing.of([2.0]), 200 << 20),
    ]
    head, *rows = (
        [cell.strip() for cell in line.split("  ") if cell] for line in tool.table(costs, markdown=False).splitlines()
    )
    assert (head[-1], rows[0][-1], rows[1][-1]) == ("resident MB", "300.0", "")


def test_a_process_of_its_own_says_what_it_holds(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(arguments(tmp_path, "--resident-of", "go-lsd")) == 0
    assert int(capsys.readouterr().out) > 100 << 20


@pytest.mark.slow
def test_resident_memory_of_a_process_per_method(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(arguments(tmp_path, "--methods", "go-lsd", "--resident")) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert float(row[-1]) > float(row[-3]) + 50  # libraries beside the tensors


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--baseline", "nothing"], "error: methods: nothing: choose from"),
        (["--methods", "FGD"], "error: methods: FGD: give the YAML file of a --teacher"),
        (["--methods", "none+cached"], "error: methods: none+cached: has no teacher"),
        (["--methods", "golsd"], "error: methods: golsd: choose from fdr-only, none, go-lsd, inter-d2s"),
        (["--batch", "0"], "error: batch is 0: give 1 or more"),
        (["--steps", "0", "--warmup", "0"], "error: steps is 0: give 1 or more; warmup is 0: give 1 or more"),
        (["--image", "640", "8"], "error: image is (640, 8): give 32 pixels or more"),
        (["--boxes", "-1"], "error: boxes is -1: give 0 or more"),
        (
            ["-u", "DFINETransformer.num_layers=1", "DFINETransformer.eval_idx=0", "--methods", "go-lsd+attn"],
            "two decoder layers or more",
        ),
    ],
)
def test_what_cannot_be_measured(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert tool.main(arguments(tmp_path, *more)) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def shared(tool: ModuleType, tmp_path: Path) -> tuple[Any, argparse.Namespace]:
    """What all methods share, and the options it was made with."""
    options = tool.parse_arguments(arguments(tmp_path, "--diagnostics"))
    return tool.Bench(tool.config_of(options), options, torch.device("cpu")), options


def test_all_methods_share_one_state(
    tool: ModuleType, shared: tuple[Any, argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, options = shared
    model = bench.trainee.model
    before = {name: value.clone() for name, value in named_as_saved(model)}
    steps: list[TrainingStep] = []
    taken = TrainingStep.__call__
    monkeypatch.setattr(TrainingStep, "__call__", lambda step: (steps.append(step), taken(step))[1])
    names = ["none", "go-lsd", "go-lsd+attn"]
    costs = tool.measure(bench, names, options)
    assert [cost.method for cost in costs] == [*names, "diagnostics"]
    assert all(len(cost.timing.calls) == 2 and min(cost.timing.calls) > 0 for cost in costs)
    for name, value in named_as_saved(model):
        assert torch.equal(value, before[name]), name  # the learning rate is 0
    assert len(steps) == len(costs) * (1 + 1 + 2)  # warm-up, one for the peak, two that count
    peaks = {cost.method: cost.peak_bytes for cost in costs}
    assert peaks["none"] <= peaks["go-lsd"] <= peaks["go-lsd+attn"]
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert min(peaks.values()) > 3 * weights  # two averages of Adam, EMA


def test_methods_differ_in_their_losses(tool: ModuleType, shared: tuple[Any, argparse.Namespace]) -> None:
    objectives = {name: shared[0].step(name).objective for name in tool.METHODS}
    kinds = {
        name: [type(distiller).__name__ for distiller in objective.distillers] for name, objective in objectives.items()
    }
    assert kinds["none"] == kinds["fdr-only"] == []
    assert kinds["go-lsd"] == ["GOLSD"]
    assert kinds["inter-s2d"] == ["InterLayerDistillation"]
    assert kinds["inter-d2s+attn+levels"] == ["InterLayerDistillation", "AttentionDistillation"]
    assert [name for name, objective in objectives.items() if not objective.criterion.use_uni_set] == ["fdr-only"]


def test_there_is_something_to_distil(tool: ModuleType, shared: tuple[Any, argparse.Namespace]) -> None:
    bench, _ = shared
    pixels, targets = bench.batch
    seen: list[dict[str, float]] = []
    for name in tool.METHODS:
        objective = bench.step(name).objective
        terms = objective(bench.trainee.model(pixels / 255, targets, want=objective.want), targets, 0.0)
        own = ("loss_ddf_a", "loss_isd", "loss_attn")
        seen.append({term: float(value.detach()) for term, value in terms.items() if term.startswith(own)})
    assert [bool(terms) for terms in seen] == [name not in ("none", "fdr-only") for name in tool.METHODS]
    assert all(value > 0 for terms in seen for value in terms.values())


RESIDENT = """
import sys
sys.path[:0] = sys.argv[2:]
import torch
from builders import load_tool
tool = load_tool("benchmark/distillation_cost")
options = tool.parse_arguments(sys.argv[1].split("|"))
bench = tool.Bench(tool.config_of(options), options, torch.device("cpu"))
held = tool.resident_peak(bench, "none", 1)
more = torch.ones(64 << 20)  # 256 MB
print(held, tool.resident_peak(bench, "none", 1))
"""


def test_resident_memory_is_that_of_a_fresh_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RESIDENT, "|".join(arguments(tmp_path)), *sys.path]
    held, grown = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert 100 << 20 < held < grown
    assert grown - held > 56 << 20
