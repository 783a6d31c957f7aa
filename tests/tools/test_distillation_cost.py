# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""tools/benchmark/distillation_cost.py with the micro model."""

from pathlib import Path
from types import ModuleType

import pytest

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
    assert lines[0].replace(" ", "").startswith("|method|msperstep|time/go-lsd|quartiles|peakMB|")
    assert set(lines[1]) <= set("|-: ")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    assert [row[0] for row in cells] == ["none", "go-lsd", "diagnostics"]
    assert (cells[1][2], cells[1][5]) == ("1.000", "1.000")
    assert "micro, 1 x 64 x 64 pixels, 3 boxes an image, fp32, 2 rounds; " in lines[6]


def test_plain_text_without_the_baseline(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(arguments(tmp_path, "--methods", "inter-d2s")) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[0] == "inter-d2s"
    assert len(row) == 3  # no ratios


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "golsd"], "error: methods: golsd: choose from none, go-lsd, inter-d2s"),
        (["--batch", "0"], "error: batch is 0: give 1 or more"),
        (
            ["-u", "DFINETransformer.num_layers=1", "DFINETransformer.eval_idx=0", "--methods", "go-lsd+attn"],
            "2 or more",
        ),
    ],
)
def test_what_cannot_be_measured(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert tool.main(arguments(tmp_path, *more)) == 2
    assert message in capsys.readouterr().err
