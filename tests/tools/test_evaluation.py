# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from builders import load_tool

SMALL = ["--images", "30", "--detections", "40", "--classes", "5"]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark with every side in this process."""
    module = load_tool("benchmark/evaluation")

    monkeypatch.setattr(module, "in_process", module.measured)
    return module


def test_all_sides_agree(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([*SMALL, "--rounds", "2", "-o", str(tmp_path / "found.json")]) == 0
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["settings"]["images"] == 30
    assert set(content["sides"]) == {"isdfine", "faster-coco-eval", "pycocotools"}
    assert set(content["machine"]["versions"]) >= {"torch", "numpy", "faster-coco-eval", "pycocotools"}
    assert content["machine"]["cpu"]
    assert len(content["machine"]["load_after"]) == 3
    for side in content["sides"].values():
        assert len(side["cpu_s_by_round"]) == side["summary"]["calls"] == 2
        assert side["stats"] == pytest.approx(content["sides"]["isdfine"]["stats"], abs=1e-12)
        assert 0.05 < side["stats"][0] < 0.9
        assert side["stats"][1] > side["stats"][0]
    assert content["sides"]["isdfine"]["ratio"]["median"] == 1
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1:4]] == ["isdfine", "faster-coco-eval", "pycocotools"]
    assert "30 images, 40 detections each, 5 classes, 2 rounds" in printed


def test_a_file_that_cannot_be_written_is_one_line(
    tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert tool.main([*SMALL, "--peers", "--rounds", "1", "-o", str(tmp_path / "file" / "found.json")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_other_numbers_are_an_error(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "peer", lambda *_: [0.5] * 12)
    assert tool.main([*SMALL, "--peers", "pycocotools"]) == 1
    assert "the numbers of pycocotools are others than ours" in capsys.readouterr().err


def test_a_missing_peer_is_named(
    tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None)
    assert tool.main([*SMALL, "--peers", "faster-coco-eval"]) == 2
    assert "faster-coco-eval is missing here: pip install faster-coco-eval" in capsys.readouterr().err


def test_counts_are_positive(tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--images", "0"])
    assert "0 is below 1" in capsys.readouterr().err
