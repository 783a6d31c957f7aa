# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from builders import load_tool
from detector_cases import micro_checkpoint
from graph_cases import OURS, constant_graph
from isdfine.deploy.backends.base import OUTPUTS
from latency_cases import ours, write_graph

SHORT = ["--rounds", "3", "--repeats", "2", "--warmup", "1", "--device", "cpu"]
GIVEN = {"images": ("FLOAT", [1, 3, 32, 32]), "orig_target_sizes": ("INT64", [1, 2])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.pth, micro.yml and data."""
    return micro_checkpoint(tmp_path_factory.mktemp("micro")).parent


def test_a_comparison(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = ours(tmp_path / "m.onnx")
    theirs = write_graph(tmp_path / "t.onnx", GIVEN, OUTPUTS)
    file = tmp_path / "found.json"
    models = [str(graph), str(theirs), str(folder / "micro.yml")]
    assert load_tool("benchmark/latency").main(["--compare", *models, *SHORT, "--markdown", "-o", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[:5]] == ["model", "-----", "m", "t", "micro"]
    assert "time / m" in lines[0]
    content = json.loads(file.read_text())
    assert content["models"]["micro"]["time_over_m"]["median"] > 1, "a network takes longer than a mean"
    assert [len(turn) for turn in content["models"]["t"]["seconds_by_round"]] == [2, 2, 2]
    assert (content["models"]["m"]["precision"], content["models"]["t"]["precision"]) == ("fp16", "unknown")
    assert content["machine"]["versions"]["isdfine"]
    assert content["plan"]["rounds"] == 3
    assert not list(tmp_path.glob("*.tmp"))


def test_openvino_beside_onnx_runtime(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="pip install openvino")
    graph, latency = constant_graph(tmp_path / "m.onnx", **OURS), load_tool("benchmark/latency")
    assert latency.main(["--compare", str(graph), f"openvino:{graph}", *SHORT, "--batch", "2", "--threads", "1"]) == 0
    assert "openvino 20" in capsys.readouterr().out
    for model, message in (
        (f"openvino:{folder / 'micro.yml'}", "OpenVINO runs ONNX files: make one with isdfine export"),
        (f"openvino:{write_graph(tmp_path / 't.onnx', GIVEN, OUTPUTS)}", "was not written by isdfine"),
        (f"openvino:{graph}", r"takes images of 32 x 64 (height x width) pixels, not 64 x 64: leave --size out"),
    ):
        assert latency.main(["-m", model, *SHORT, "--size", "64", "64"]) == 2
        assert message in capsys.readouterr().err


def test_preprocessing_and_ap(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder / "data"
    picture = next((data / "images").iterdir())
    assert load_tool("benchmark/latency").main(
        ["-m", str(folder / "best.pth"), *SHORT, "--with-preprocessing", "--image", str(picture), "--batch", "2"]
        + ["--coco", str(data / "annotations.json"), "--images", str(data / "images")]
    ) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith("AP")
    assert f"batch 2; {picture.name}" in out
    assert "decoded -> resized" in out


def test_labels_are_short_and_differ(folder: Path, tmp_path: Path) -> None:
    labels_of = load_tool("benchmark/latency").labels_of
    config, checkpoint = folder / "micro.yml", folder / "best.pth"
    for name in ("n.onnx", "other/n.onnx", "n (2).onnx", "a+b.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    graphs = [str(tmp_path / name) for name in ("n.onnx", "other/n.onnx", "n (2).onnx")]
    assert labels_of([f"onnx:{config}+{checkpoint}", str(config), str(checkpoint)]) == [
        "onnx:micro+best",
        "micro",
        "best",
    ]
    assert labels_of([str(tmp_path / "a+b.onnx"), graphs[0]]) == ["a+b", "n"]
    assert labels_of(graphs) == ["n (1)", "n (2)", "n (2) (3)"]
    assert labels_of([f"eager:{checkpoint}", f"compile:{checkpoint}"]) == ["eager:best", "compile:best"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "M", "--image", "x.jpg"], "--image is where --with-preprocessing begins"),
        (["-m", "M", "--images", "x"], "--images is the folder of --coco"),
        (["--compare", "M"], "--compare takes two or more models"),
        (["-m", "M", "--precision", "fp16"], "--precision is for models that are built here"),
        (["-m", "M", "-u", "a=1"], "-u is for models that are built here"),
        (["-m", "M", "--threads", "0"], "threads is 0: give 1 or more"),
        (["-m", "M", "--rounds", "0"], "rounds is 0: give 1 or more"),
        (["-m", "M", "--batch", "0"], "batch is 0: give 1 or more"),
        (["-m", "M", "--device", "mps"], "device is mps, but this torch"),
        (["-m", "M", "--device", "cuda:99"], "device is cuda:99, but this torch"),
        (["-m", "M", "-o", "."], "--output . is a folder: give the name of a JSON file"),
        (["-m", "M", "--rounds", "1", "--warmup", "1", "-o", "/dev/null/found.json"], "'/dev/null"),
        (["--compare", "M", "FREE", "--size", "40", "40"], "takes images of 32 x 64"),
        (["-m", "M", "--with-preprocessing", "--image", "absent.jpg"], "absent.jpg"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = {"M": str(ours(tmp_path / "m.onnx")), "FREE": str(ours(tmp_path / "free.onnx", size=("H", "W")))}
    given = [graphs.get(argument, argument) for argument in arguments]
    assert load_tool("benchmark/latency").main(["--device", "cpu", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
