# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""tools/benchmark/step_parts.py in small."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from builders import load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The tool as a module."""
    return load_tool("benchmark/step_parts")


def test_both_forms_take_turns_and_agree(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "SIZES", [(5, 7), (3, 4), (2, 2)])
    monkeypatch.setattr(tool, "QUERIES", 9)
    assert tool.main(["--batch", "1", "--tensors", "3", "--rounds", "1", "-o", str(tmp_path / "found.json")]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[:3]] == ["part", "attention", "update"]
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["parts"]["attention"]["largest_relative_difference"] < 1e-5
    assert content["parts"]["update"]["ratio"]["median"] > 0


def test_wrong_options_are_one_message(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--batch", "0"]) == 2
    assert "error: batch is 0: give 1 or more" in capsys.readouterr().err
