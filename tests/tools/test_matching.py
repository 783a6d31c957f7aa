# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""tools/benchmark/matching.py in small."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from builders import load_tool

SMALL = ["--batch", "2", "--queries", "20", "--layers", "2", "--classes", "4", "--rounds", "1"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The tool as a module."""
    return load_tool("benchmark/matching")


def test_both_sides_are_timed_and_agree(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    assert tool.main([*SMALL, "--objects", "3", "6", "-o", str(file)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[:3]] == ["objects", "3", "6"]
    content = json.loads(file.read_text())
    assert content["machine"]["versions"]["torch"]
    for result, objects in zip(content["comparison"], (3, 6)):
        assert result["shapes"]["objects"] == objects
        assert result["target"] is None  # targets are for batch 8
        assert result["largest_loss_difference"] < 1e-4
        assert result["largest_gradient_difference"] < 1e-4
        ours, published = result["sides"]["ours"], result["sides"]["published"]
        assert 0 < ours["operators"] <= 640 < published["operators"]
        assert ours["peak_bytes"] > 0
        assert ours["summary"]["median_ms"] > 0
        assert result["ratio"]["median"] > 0


@pytest.mark.parametrize("found", [False, True])
def test_growth_over_objects_and_batch(tool: ModuleType, capsys: pytest.CaptureFixture[str], found: bool) -> None:
    assert tool.main([*SMALL, "--objects", "2", "4", "8", "--growth", "--markdown", *["--found"] * found]) == 0
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in capsys.readouterr().out.splitlines()[2:7]]
    assert [(row[0], row[1]) for row in cells] == [("2", "2"), ("2", "4"), ("2", "8"), ("1", "4"), ("4", "4")]
    options = tool.parse_arguments([*SMALL, "--objects", "2", "--growth", *["--found"] * found])
    assert [result["shapes"]["found"] for result in tool.run(options)["growth"]] == [found] * 3


def test_wrong_options_are_one_message(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--batch", "0"]) == 2
    assert "error: batch is 0: give 1 or more" in capsys.readouterr().err
