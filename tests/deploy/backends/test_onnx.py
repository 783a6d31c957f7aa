# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: our graphs, official ones, and files that are neither."""

import sys
from pathlib import Path

import numpy as np
import pytest

from detector_cases import LABELS
from graph_cases import GREY, OURS, constant_graph
from isdfine import Detector
from isdfine.core.checkpoint import NO_SUM, SUM_KEY, write_with_sum
from isdfine.core.errors import CheckpointError, ConfigError

onnx = pytest.importorskip("onnx", reason="pip install onnx")
pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
from onnx import TensorProto, helper  # noqa: E402  # after the check that it is there


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_batches_of_any_and_of_one_size(tmp_path: Path, batch: int | str) -> None:
    detector = Detector.load(constant_graph(tmp_path / "m.onnx", batch=batch, **OURS), device="cpu", batch_size=4)
    assert detector.info.max_batch == (None if batch == "N" else batch)
    images = [np.full((10, 20 + number, 3), 51 * number, np.uint8) for number in range(5)]
    found = detector.detect(images, 0.0)
    np.testing.assert_allclose([answer.scores[0] for answer in found], [0, 0.2, 0.4, 0.6, 0.8], atol=1e-5)
    assert [answer.boxes[0].tolist() for answer in found] == [[0, 0, 20 + number, 10] for number in range(5)]
    assert found[0].label_space == LABELS


def test_uint8_graphs_get_the_pixels(tmp_path: Path) -> None:
    detector = Detector.load(constant_graph(tmp_path / "m.onnx", kind="UINT8", **OURS), device="cpu")
    assert detector.info.uint8
    assert detector.detect(GREY, 0.0).scores[0] == 102


def test_an_official_export_needs_names(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "official.onnx")
    with pytest.raises(CheckpointError, match=r"not written by isdfine \(no isdfine_version .*class names \(names=\)"):
        Detector.load(path, device="cpu")
    detector = Detector.load(path, device="cpu", names=["a", "b"])
    assert detector.info.size == (32, 64)
    assert detector.detect(GREY, 0.0).names == ["a"]
    with pytest.raises(CheckpointError, match=r"official.onnx \(names\): category name 'a' occurs twice"):
        Detector.load(path, device="cpu", names=["a", "a"])


def test_models_that_cannot_be_used(tmp_path: Path) -> None:
    other = constant_graph(tmp_path / "other.onnx", io=("pixel_values", "sizes", "logits", "pred_boxes", "s"))
    with pytest.raises(
        CheckpointError,
        match=r"other.onnx: has the inputs pixel_values, sizes and the outputs logits, pred_boxes, s, expected "
        r"images, orig_target_sizes and labels, boxes, scores: it is another project's model; export one",
    ):
        Detector.load(other, device="cpu")
    for content in (b"", b"no onnx file"):
        (tmp_path / "broken.onnx").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"broken.onnx \(\d+ bytes\): ONNX Runtime cannot load it \("):
            Detector.load(tmp_path / "broken.onnx", device="cpu")
    for key, value, reason in (
        ("names", "[", "do not say its classes"),
        ("ids", "[1]", "do not say its classes .*2 class names for 1 category ids"),
        ("size", "[64, 64]", r"takes images of 32 x 64 \(height x width\), its metadata say \(64, 64\)"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            Detector.load(constant_graph(tmp_path / "m.onnx", **OURS | {key: value}), device="cpu")
    with pytest.raises(CheckpointError, match="says its classes itself: leave names out"):
        Detector.load(constant_graph(tmp_path / "m.onnx", **OURS), device="cpu", names=["a"])


def test_packages_and_devices_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = constant_graph(tmp_path / "m.onnx", **OURS)
    with pytest.raises(ConfigError, match="device is 'tpu': give cpu, cuda or cuda:0"):
        Detector.load(path, device="tpu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ConfigError, match=r"knows only .*CPUExecutionProvider.*: pip install onnxruntime-gpu"):
            Detector.load(path, device="cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r'onnxruntime is not installed: pip install "isdfine\[export\]"'):
        Detector.load(path, device="cpu")


def test_a_graph_that_stops(tmp_path: Path) -> None:
    """One with a batch baked in behind inputs that promise any."""
    path = constant_graph(tmp_path / "m.onnx", **OURS)
    graph = onnx.load(path)
    graph.graph.node[-1].input[1] = "two"  # a subtraction whose shapes fit for two images, not for three
    graph.graph.initializer.append(helper.make_tensor("two", TensorProto.INT64, [2, 1], [0, 0]))
    graph.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(graph, path)
    detector = Detector.load(path, device="cpu")
    assert len(detector.detect([GREY] * 2, 0.0)) == 2
    with pytest.raises(
        CheckpointError, match=r"m.onnx: ONNX Runtime stopped at 3 images of 32 x 64 \(.*batch of 1, or"
    ):
        detector.detect([GREY] * 3, 0.0)


def test_a_gpu_that_does_not_start_is_no_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime takes the CPU where CUDA's libraries are missing, and only logs it."""
    import onnxruntime

    path = constant_graph(tmp_path / "m.onnx", **OURS)
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *a, providers: real(*a, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(ConfigError, match=r"m.onnx: this onnxruntime .* cannot start CUDA here.*, or give cpu"):
        Detector.load(path)


def test_endings_in_capitals(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "M.ONNX", **OURS)
    assert Detector.load(path, device="cpu").info.backend.startswith("onnxruntime")


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ('["a", "b"]', "[1e999, 1]"),
        ('["a", "b"]', "[1.5, 1]"),
        ('["a", 2]', "[1, 2]"),
        ('["a", ["b"]]', "[1, 2]"),
        ("[" * 100_000, "[1, 2]"),
        ("NaN", "[1, 2]"),
        ('["a", "b"]', "[" + "9" * 10_000 + ", 1]"),
        ('["a"]', "[1, 2]"),
    ],
)
def test_odd_classes_in_metadata_are_one_line(tmp_path: Path, names: str, ids: str) -> None:
    path = constant_graph(tmp_path / "m.onnx", **{**OURS, "names": names, "ids": ids})
    with pytest.raises(CheckpointError, match=r"m.onnx: its metadata do not say its classes") as caught:
        Detector.load(path, device="cpu")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_no_turned_bit_of_a_graph_is_run(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "m.onnx", **OURS, **{SUM_KEY: NO_SUM})
    write_with_sum(path, path.read_bytes())
    raw = path.read_bytes()
    assert Detector.load(path, device="cpu").names == ("dark", "light")
    key = raw.index(SUM_KEY.encode())
    for place in range(0, len(raw), 5):
        if key <= place < key + len(SUM_KEY) + 2:
            continue  # without its key the sum is not found; the rest is untouched then
        path.write_bytes(raw[:place] + bytes([raw[place] ^ (1 << place % 8)]) + raw[place + 1 :])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            Detector.load(path, device="cpu")
