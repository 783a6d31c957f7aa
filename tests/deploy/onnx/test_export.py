# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What is written is what PyTorch computes, and what cannot be written is said before the work begins."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export_cases import IMAGES, Exported
from isdfine.core.errors import ConfigError
from isdfine.data.transforms.ops import PixelConversion
from isdfine.deploy.onnx import export, graph
from isdfine.deploy.onnx.export import export_onnx, trtexec_line
from isdfine.deploy.onnx.graph import Deployed, GraphForm
from isdfine.deploy.onnx.sample import images_in
from isdfine.deploy.onnx.structure import ExportError
from isdfine.deploy.onnx.verify import session_of
from isdfine.deploy.preprocess import Recipe

onnx = pytest.importorskip("onnx", reason="pip install onnx")


def again(exported: Exported, path: Path, **wanted: Any) -> export.ExportReport:
    given = {"size": (64, 64), "images": images_in(IMAGES), **wanted}
    return export_onnx(exported.model, exported.postprocessor, path, **given)


def steady_images() -> list[Path]:
    """For half precision: with these random weights two queries of one page swap within its rounding; that page stands
    last, for batch 8 excuses what batch 3 does not."""
    first, tied, *others = images_in(IMAGES)
    return [first, *others, tied]


def test_the_graph_says_what_it_is(exported: Exported) -> None:
    graph = exported.graph()
    texts = {one.key: one.value for one in graph.metadata_props}
    assert json.loads(texts["names"]) == ["dark", "light"]
    assert (json.loads(texts["size"]), texts["resize"], texts["precision"]) == ([64, 64], "squash", "fp32")
    assert (texts["input"], texts["applied"]) == ("float32 0..1 RGB", "false")
    assert Recipe.from_metadata(texts, "x").size == (64, 64)
    dims = [[d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in graph.graph.input]
    assert dims == [["batch", 3, 64, 64], ["batch", 2]]
    assert str(Path.cwd()) not in str(graph)  # no trace of the machine
    assert list(exported.report.differences) == [f"batch {count} of 64 x 64" for count in (1, 3, 8)]
    assert all(0 < one.compared == 10 * count for one, count in zip(exported.report.differences.values(), (1, 3, 8)))


def test_a_graph_that_differs_leaves_no_file(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = exported.graph()
    wrong.graph.node.append(onnx.helper.make_node("Mul", ["true_boxes", "factor"], ["boxes"]))
    next(node for node in wrong.graph.node if "boxes" in node.output).output[0] = "true_boxes"
    wrong.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1.01, np.float32), "factor"))
    monkeypatch.setattr(export, "to_onnx", lambda *_: wrong)
    earlier = tmp_path / "earlier.onnx"
    earlier.write_text("kept")
    with pytest.raises(ExportError, match=r"batch 3 of 64 x 64: boxes: off by .* px, 0\.05 px is allowed"):
        again(exported, earlier)
    with pytest.raises(ExportError, match=r"new/a\.onnx: ONNX Runtime and PyTorch disagree: .*boxes: off by"):
        again(exported, tmp_path / "new" / "a.onnx")
    assert earlier.read_text() == "kept"
    assert sorted(one.name for one in tmp_path.rglob("*.onnx*")) == ["earlier.onnx"]


def test_half_precision_is_compared_as_well(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "to_onnx", lambda *_: exported.graph())
    report = again(exported, tmp_path / "half.onnx", precision="fp16", images=steady_images())
    assert report.share.half_weights > 0.95 * report.share.weights
    assert "in float16" in report.share.describe()
    assert 0 < report.differences["batch 8 of 64 x 64"].score <= 0.02


def test_what_cannot_be_written_is_said_at_once(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "to_onnx", lambda *_: pytest.fail("the export began"))
    path = tmp_path / "a.onnx"
    for wanted, message in (
        ({"size": (64, 65)}, r"size is 64 x 65 \(height x width\): both must be multiples of 32"),
        ({"opset": 16}, r"opset is 16: choose 18 to 21; before 17 layer norm is split .* overflow in fp16"),
        ({"opset": 17}, r"opset is 17: choose 18 to 21; torch writes no 17"),
        ({"precision": "int8"}, r"precision is 'int8': choose fp32 or fp16"),
    ):
        with pytest.raises(ConfigError, match=message):
            again(exported, path, **wanted)
    with pytest.raises(ConfigError, match=r"is a folder: give the name of a file"):
        again(exported, tmp_path)
    with pytest.raises(ConfigError, match=r"a\.engine: give it the ending \.onnx, by which isdfine"):
        again(exported, tmp_path / "a.engine")
    path.write_text("")
    with pytest.raises(ConfigError, match=r"its folder cannot be made"):
        again(exported, path / "b.onnx")
    monkeypatch.setattr(export.os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"the folder cannot be written: correct its permissions"):
        again(exported, tmp_path / "c.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript.optimizer"])
def test_a_missing_package_is_named(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf'{package.split(".")[0]} is not installed: pip install "isdfine\[export\]"'
    ):
        again(exported, tmp_path / "a.onnx")


def test_a_full_disk_leaves_nothing(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, _: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "to_onnx", lambda *_: exported.graph())
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"could not be written \(No space left on device\): free space"):
        again(exported, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_the_model_stays_as_it_was(exported: Exported) -> None:
    assert any("running_mean" in key for key in exported.model.state_dict())
    assert all(one.requires_grad for name, one in exported.model.named_parameters() if name.endswith("linear1.weight"))


def test_trtexec_line() -> None:
    line = trtexec_line(Path("a/s.onnx"), (480, 640), batches=(1, 4, 8))
    assert line == (
        "trtexec --onnx=a/s.onnx --saveEngine=a/s.engine --stronglyTyped --noTF32 "
        "--minShapes=images:1x3x480x640,orig_target_sizes:1x2 --optShapes=images:4x3x480x640,orig_target_sizes:4x2 "
        "--maxShapes=images:8x3x480x640,orig_target_sizes:8x2"
    )


def test_trtexec_line_of_a_path_with_a_space() -> None:
    line = trtexec_line(Path("my files/s.onnx"), (64, 64), batches=(1, 1, 1))
    assert line.startswith("trtexec --onnx='my files/s.onnx' --saveEngine='my files/s.engine' --stronglyTyped")


def test_a_fault_of_the_fused_form_is_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is compared with the model as it was trained, not with what was made of it for inference."""
    trained = copy.deepcopy(exported.model)
    trained.decoder.score_head.layers[-1].bias.data += 0.01  # as if the inference form had lost it
    monkeypatch.setattr(export, "to_onnx", lambda *_: exported.graph())
    monkeypatch.setattr(graph, "fuse", lambda _, backbone: copy.deepcopy(exported.model))
    with pytest.raises(ExportError, match="batch 1 of 64 x 64: scores: off by"):
        export_onnx(trained, exported.postprocessor, tmp_path / "a.onnx", size=(64, 64), images=images_in(IMAGES))


def test_another_size_keeps_what_pixels_become(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run whose pixels are 0..255 or normalised is exported so, whatever size is asked for."""
    seen: list[Recipe] = []
    monkeypatch.setattr(export, "to_onnx", lambda *_: exported.graph())
    monkeypatch.setattr(export, "verify", lambda *_, **__: {})
    monkeypatch.setattr(export, "draw_sample", lambda _, __, ___, recipe: seen.append(recipe) or exported.sample)
    ops = tuple({"type": name, "size": (96, 96)} for name in ("ResizeToFit", "PadToSize"))
    fitted = Recipe(ops, pixels=PixelConversion(scale=False), mean=(1, 2, 3), std=(4, 5, 6))
    report = again(exported, tmp_path / "a.onnx", recipe=fitted, dynamic_size=True)
    assert [one.size for one in seen] == [(64, 64), (64, 96)]
    assert {(one.rule, one.pixels.scale, one.mean, one.std) for one in seen} == {
        ("squash", False, (1, 2, 3), (4, 5, 6))
    }
    texts = {one.key: one.value for one in onnx.load(str(report.path)).metadata_props}
    assert texts["input"] == "float32 0..255 RGB"
    assert caplog.messages == ["images of this file are squashed to 64 x 64; the run evaluated with 'fit'"]


def test_uint8_input_means_the_same(exported: Exported) -> None:
    deployed = Deployed(exported.model, exported.postprocessor, Recipe.squash((64, 64)), uint8=True)
    pixels, sizes = (torch.from_numpy(one[:2].copy()) for one in (exported.sample.pixels, exported.sample.sizes))
    with torch.inference_mode():
        labels, boxes, scores = deployed(pixels, sizes)
    expected = exported.sample.expected
    assert np.array_equal(labels, expected.labels[:2])
    assert np.allclose(boxes, expected.boxes[:2], atol=1e-3)
    assert np.allclose(scores, expected.scores[:2], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [19, 20, 21])
def test_other_opsets(exported: Exported, tmp_path: Path, opset: int) -> None:
    report = again(
        exported, tmp_path / "a.onnx", opset=opset, precision="fp16", uint8_input=True, images=steady_images()
    )
    graph = onnx.load(str(report.path))
    assert graph.opset_import[0].version == opset
    assert session_of(report.path).get_inputs()[0].type == "tensor(uint8)"


@pytest.mark.slow
def test_free_sizes(exported: Exported, tmp_path: Path) -> None:
    config = exported.config.with_values({"eval_spatial_size": None})
    model = config.build("model").eval()
    model.load_state_dict(exported.model.state_dict(), strict=False)
    with pytest.raises((ConfigError, ExportError)):  # tables of one size are inside
        again(exported, tmp_path / "a.onnx", dynamic_size=True)
    report = export_onnx(
        model, exported.postprocessor, tmp_path / "a.onnx", size=(64, 64), images=images_in(IMAGES), dynamic_size=True
    )
    assert [case for case in report.differences if "64 x 96" in case]
    texts = {one.key: one.value for one in onnx.load(str(report.path)).metadata_props}
    assert (texts["size"], texts["default_size"]) == ("null", "[64, 64]")
    session = session_of(report.path)
    images, sizes = np.zeros((1, 3, 128, 32), np.float32), np.ones((1, 2), np.int64)
    found = session.run(None, {"images": images, "orig_target_sizes": sizes})
    assert found[0].shape == (1, 10)


def test_graph_form_defaults() -> None:
    assert GraphForm((64, 96)).opset == 18
