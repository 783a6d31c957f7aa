# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of the ONNX export: one line for every mistake, a file only when it is right."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import load_tool
from export_cases import IMAGES
from hf_cases import filled, micro
from isdfine.api import export as export_job
from isdfine.deploy.onnx import export
from isdfine.deploy.onnx.export import ExportReport
from isdfine.deploy.onnx.half import HalfShare
from isdfine.deploy.onnx.structure import ExportError
from isdfine.load import load_detector

onnx = pytest.importorskip("onnx", reason="pip install onnx")
pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
pytest.importorskip("onnxscript", reason="pip install onnxscript")
TOOL = load_tool("export_onnx")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of ours with a micro model, that carries its config and its classes."""
    config = micro(tmp_path)
    content = {
        "model": filled(config).state_dict(),
        "config": config.dump(),
        "label_space": {"names": ["dark", "light"], "category_ids": [3, 7]},
    }
    torch.save(content, tmp_path / "best.pth")
    return tmp_path / "best.pth"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, output and errors of the command."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        code = TOOL.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def test_mistakes_are_one_line(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    bare, other = tmp_path / "bare.pth", tmp_path / "other.pth"
    content = torch.load(checkpoint, weights_only=True)
    torch.save({"model": content["model"]}, bare)
    torch.save({"model": {"some.weight": torch.zeros(2)}}, other)
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        (["-r", tmp_path / "none.pth"], "none.pth: no such file or folder"),
        (["-r", bare], "holds no config: give the YAML file it was trained with"),
        (["-r", other], "other.pth (official D-FINE checkpoint (plain weights)) holds no config"),
        (["-r", checkpoint, "--size", 64, 100], "size is 64 x 100 (height x width): both must be multiples of 32"),
        (["-r", checkpoint, "--opset", 16], "opset is 16: choose 18 to 21"),
        (["-r", checkpoint, "-o", tmp_path], "is a folder: give the name of a file"),
        (["-r", checkpoint, "--images", empty], "no images to compare with: give a folder of real ones with --images"),
        (["-r", checkpoint, "-u", "num_classes=3"], "-u changes a config: give it with -c"),
        (["-c", "configs/dfine/none.yml", "-r", checkpoint], "none.yml"),
    ):
        code, out, errors = run(*arguments)
        assert (code, out, errors.count("\n")) == (2, "", 1), errors
        assert errors.startswith("error: ")
        assert message in errors
    assert not list(tmp_path.rglob("*.onnx*"))


def test_a_checkpoint_of_another_model(checkpoint: Path, run: Run) -> None:
    config = Path(__file__).parents[2] / "configs" / "dfine" / "dfine_hgnetv2_n_coco.yml"
    code, _, errors = run("-c", config, "-r", checkpoint)
    assert code == 2
    assert "does not fit the model" in errors
    assert errors.count("\n") == 1


def test_padded_evaluation_is_refused(checkpoint: Path, run: Run, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    config = micro(tmp_path).with_values({"val_dataloader.collate_fn": {"type": "PaddedBatchCollateFunction"}})
    torch.save({**content, "config": config.dump()}, checkpoint)
    code, _, errors = run("-r", checkpoint)
    assert (code, errors.count("\n")) == (2, 1)
    assert "evaluated on padded batches, and the graph has no input for the size of the content: give --size" in errors


def test_a_failed_comparison_is_exit_code_1(
    checkpoint: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ExportError("a.onnx: ONNX Runtime and PyTorch disagree: batch 3 of 64 x 64: boxes: off by 3 px")

    monkeypatch.setattr(export, "verify", fail)
    monkeypatch.setattr(export, "to_onnx", lambda *_: onnx.ModelProto())
    code, out, errors = run("-r", checkpoint, "-o", tmp_path / "a.onnx", "--images", IMAGES)
    assert (code, out) == (1, "")
    assert errors.startswith("error: export failed, nothing was written: a.onnx: ONNX Runtime and PyTorch disagree")
    assert not list(tmp_path.glob("a.onnx*"))


@pytest.mark.slow
def test_a_file_is_written(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "deep" / "a.onnx"
    code, out, errors = run(
        "-r", checkpoint, "-o", path, "--images", IMAGES, "--precision", "fp16", "--uint8", "--size", 64, 96
    )
    assert (code, errors) == (0, "")
    assert f"compared: ONNX Runtime with PyTorch on images of {IMAGES}" in out
    assert "batch 8 of 64 x 96: scores" in out
    assert "weights in float16" in out
    assert "TensorRT: trtexec --onnx=" in out
    texts = {prop.key: prop.value for prop in onnx.load(str(path)).metadata_props}
    assert (json.loads(texts["names"]), json.loads(texts["ids"])) == (["dark", "light"], [3, 7])
    assert (texts["precision"], texts["input"], json.loads(texts["size"])) == ("fp16", "uint8 RGB", [64, 96])


def test_the_default_name(tmp_path: Path) -> None:
    assert export_job.default_output(tmp_path / "run" / "best.pth") == Path("best.onnx")
    (tmp_path / "my.model").mkdir()
    assert export_job.default_output(tmp_path / "my.model") == Path("my.model.onnx")
    assert export_job.default_output(tmp_path / "my.model" / ".") == Path("my.model.onnx")


def test_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That TensorRT misreads newer opsets, and at what noise images were left out."""
    (tmp_path / "a.onnx").write_bytes(b"")
    report = ExportReport(tmp_path / "a.onnx", {}, HalfShare(1, 0, 1, 0), 1, 1.0, 0, 2e-7, (64, 64), tmp_path)
    TOOL.describe(report, TOOL.parse_arguments(["-r", "x", "--opset", "20"]))
    out = capsys.readouterr().out
    assert "0 images left out: PyTorch's own answer jumps there when pixels change by 2e-07" in out
    assert "(by 1e-06 it jumps on all: this model is unusually sensitive)" in out
    assert "TensorRT: misreads GridSample of opset 20 (docs/export.md): export with --opset 18" in out


def test_images_of_the_validation_set(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_detector(checkpoint)
    assert export_job.comparison_images(None, loaded, None) == tmp_path / "data" / "images"
    (tmp_path / "data" / "images").rename(tmp_path / "moved")
    assert export_job.comparison_images(None, loaded, None) == export_job.BUNDLED
    (tmp_path / "data.yaml").touch()
    for section in ({"type": "VOCDetection", "root": str(tmp_path)},
                    {"type": "YoloDetection", "data": str(tmp_path / "data.yaml"), "split": "val"}):  # fmt: skip
        config = loaded.config.with_values({"val_dataloader": {"type": "DataLoader", "dataset": section}})
        assert export_job.comparison_images(None, loaded, config) == tmp_path
