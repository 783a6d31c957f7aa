# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""tools/benchmark/distillation_cost.py with the micro model."""

from pathlib import Path
from types import ModuleType

import pytest

from bench.cost import Cost
from builders import load_tool, write_micro_config


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


def test_plain_text_without_the_baseline(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(arguments(tmp_path, "--methods", "inter-d2s")) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[0] == "inter-d2s"
    assert len(row) == 3  # no ratios


def test_resident_memory_is_one_more_column(tool: ModuleType) -> None:
    costs = [Cost("none", (1.0,), 100 << 20, 300 << 20), Cost("go-lsd", (2.0,), 200 << 20)]
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
        (["--methods", "golsd"], "error: methods: golsd: choose from fdr-only, none, go-lsd, inter-d2s"),
        (["--batch", "0"], "error: batch is 0: give 1 or more"),
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
