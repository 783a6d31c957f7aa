# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""tests/given_cases.py: faulty inputs that are handed around with this project, where they are there."""

from pathlib import Path

import pytest

import given_cases
from builders import ROOT

CASES = ROOT.parent / "shared" / "cases"
NAMES = sorted(path.name for path in CASES.iterdir() if path.is_dir()) if CASES.is_dir() else []
TRAINED = ("float_tiff_black", "negative_area")
"""The first is judged with a model that the second trains."""


@pytest.mark.skipif(not NAMES, reason=f"{CASES} is not there")
@pytest.mark.parametrize("names", [TRAINED, *([name] for name in NAMES if name not in TRAINED)], ids="+".join)
def test_a_faulty_input_is_met_as_its_readme_asks(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = given_cases.main([str(CASES), "--only", *names])
    assert code == 0, capsys.readouterr().out


def test_a_folder_without_an_expectation_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a_new_fault").mkdir()
    assert given_cases.main([str(tmp_path)]) == 1
    assert "a_new_fault: no expectation is written for this folder" in capsys.readouterr().out
