# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""This checkout against itself: both sides run, in turns, and count the same."""

from pathlib import Path

import pytest

from builders import ROOT, load_tool, write_micro_config


def test_a_checkout_against_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = write_micro_config(tmp_path)
    given = ["--before", str(ROOT), "-c", str(config), "--image", "64", "64", "--batch", "1", "--rounds", "1"]
    assert load_tool("benchmark/checkouts").main([*given, "--warmup", "1", "--markdown"]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capfd.readouterr().out.splitlines()]
    rows = {name: cells for name, *cells in lines[2:]}
    assert list(rows) == ["step [ms]", "step: operators", "step: criterion operators", "latency [ms]", "import [ms]"]
    whole, losses = (int(rows[f"step: {name}"][0]) for name in ("operators", "criterion operators"))
    assert 0 < losses < whole
    assert rows["step: operators"] == [str(whole), str(whole), "1.000", ""]
    assert all(float(rows[name][2]) > 0 for name in ("step [ms]", "latency [ms]", "import [ms]"))


def test_what_is_no_checkout_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool("benchmark/checkouts")
    assert tool.main(["--before", str(tmp_path), "--size", "n", "--what", "import"]) == 2
    assert "no checkout of this project (src/__init__.py is missing)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["--before", str(ROOT), "--size", "n", "--rounds", "0"])
    assert "--rounds is 0: give 1 or more" in capsys.readouterr().err
