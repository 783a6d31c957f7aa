# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import isdfine
from builders import load_tool, write_micro_config
from hf_cases import load_transformers
from isdfine.bench.open import open_subject, parse
from isdfine.bench.subject import RunWith


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("ultralytics", ["ultralytics", "yolo11n", "-o", "x"]), ("transformers", ["transformers", "-c", "x", "-o", "y"])],
)
def test_a_missing_package_is_named(
    package: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert load_tool("benchmark/peers_onnx").main(arguments) == 2
    assert f"error: {package} is missing here" in capsys.readouterr().err


def test_yolo_files_get_their_names_and_nothing_else_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a module that looks like ultralytics, which is no dependency: it talks and writes where it is started."""
    asked: list[Any] = []

    class YOLO:
        def __init__(self, name: str) -> None:
            if name == "unknown.yaml":
                raise FileNotFoundError("'unknown.yaml' does not exist")
            asked.append(name)

        def export(self, **options: Any) -> str:
            sys.stdout.write("a page about the export\n")
            asked.append(options)
            Path("written.onnx").write_bytes(b"graph")
            Path("written.json").touch()
            return "written.onnx"

    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=YOLO, __version__="8"))
    monkeypatch.chdir(tmp_path)
    for name in ("YOLO_CONFIG_DIR", "YOLO_VERBOSE"):
        monkeypatch.setenv(name, "of the user")
    main = load_tool("benchmark/peers_onnx").main
    assert main(["ultralytics", "yolo11n", "-o", "yolo", "--size", "320"]) == 0
    assert asked[0] == "yolo11n.yaml", "not .pt, which would be downloaded"
    assert (asked[1]["format"], asked[1]["imgsz"]) == ("onnx", 320)
    assert (tmp_path / "yolo" / "yolo11n.onnx").read_bytes() == b"graph"
    assert [path.name for path in tmp_path.rglob("*")] == ["yolo", "yolo11n.onnx"]
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["ultralytics", "unknown", "-o", "yolo"]) == 2
    assert "error: unknown: 'unknown.yaml' does not exist" in capsys.readouterr().err
    assert Path.cwd() == tmp_path


def test_a_config_that_transformers_cannot_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_transformers()
    config = write_micro_config(tmp_path)  # 64 x 96
    main = load_tool("benchmark/peers_onnx").main
    assert main(["transformers", "-c", str(config), "-o", str(tmp_path / "t.onnx")]) == 2
    assert capsys.readouterr().err.startswith("error: eval_spatial_size is [64, 96] with HybridEncoder.position_layout")
    assert main(["transformers", "-c", str(tmp_path / "absent.yml"), "-o", str(tmp_path / "t.onnx")]) == 2
    assert "absent.yml" in capsys.readouterr().err


@pytest.mark.slow  # exports a graph
@pytest.mark.timeout(900)
def test_their_file_answers_as_ours_does(tmp_path: Path) -> None:
    """The same weights on both sides, after their export and their post-processing."""
    load_transformers()
    config = write_micro_config(tmp_path)
    text = config.read_text()
    config.write_text(yaml.safe_dump({**yaml.safe_load(text), "num_classes": 2, "eval_spatial_size": [64, 64]}))
    theirs = tmp_path / "t.onnx"
    assert load_tool("benchmark/peers_onnx").main(["transformers", "-c", str(config), "-o", str(theirs)]) == 0
    wanted = RunWith(torch.device("cpu"), threads=1)
    answers = []
    for text in (str(config), str(theirs)):
        subject = open_subject(parse(text), wanted, isdfine.load_config)
        pixels = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
        answers.append(subject.call(subject.place(pixels, np.array([[64, 64]]))))
    ours, other = answers
    count = min(ours.scores.shape[1], other.scores.shape[1])
    np.testing.assert_allclose(other.scores[:, :count], ours.scores[:, :count], atol=1e-5)
