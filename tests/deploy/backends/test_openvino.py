# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO finds in our files what ONNX Runtime finds."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from builders import SIZE, load_tool
from detector_cases import LABELS, micro_checkpoint, micro_onnx, pictures
from export_cases import Exported
from graph_cases import GREY, OURS, constant_graph
from isdfine import Detector
from isdfine.core.checkpoint import NO_SUM, SUM_KEY, write_with_sum
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.deploy.backends.base import Outputs
from isdfine.deploy.onnx.compare import Tolerance, compare

onnx = pytest.importorskip("onnx", reason="pip install onnx")
pytest.importorskip("openvino", reason="pip install openvino")
from onnx import TensorProto, helper  # noqa: E402  # after the check that it is there

NEAR = Tolerance(1e-4, 0.01)


def reading_uint8(graph: Path, to: Path) -> Path:
    """The same detector, which makes of pixels what it reads itself."""
    proto = onnx.load(graph)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    for node in proto.graph.node:
        node.input[:] = ["scaled" if name == "images" else name for name in node.input]
    proto.graph.node.insert(0, helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT))
    proto.graph.node.insert(1, helper.make_node("Div", ["floats", "most"], ["scaled"]))
    proto.graph.initializer.append(helper.make_tensor("most", TensorProto.FLOAT, [], [255]))
    helper.set_model_props(proto, {text.key: text.value for text in proto.metadata_props if text.key != SUM_KEY})
    onnx.save(proto, to)
    return to


def agree(
    file: Path, images: NDArray[Any], sizes: NDArray[np.int64], scale: NDArray[Any], *more: Outputs, uint8: bool = False
) -> None:
    """Compare with ONNX Runtime and with ``more``, with one image and with all."""
    theirs, ours = Detector.load(file, device="cpu"), Detector.load(file, threads=1, backend="openvino")
    assert (ours.info.uint8, ours.info.size) == (theirs.info.uint8, theirs.info.size) == (uint8, images.shape[2:])
    assert ours.info.recipe.to_metadata() == theirs.info.recipe.to_metadata()
    assert (ours.label_space, ours.info.max_batch) == (LABELS, None)
    for part in (slice(0, 1), slice(None)):
        got = ours.backend.run(images[part], sizes[part])
        for expected in (theirs.backend.run(images[part], sizes[part]), *(answer.take(part) for answer in more)):
            difference = compare(expected, got, scale[part], NEAR)
            assert difference.problems(NEAR) == []
            assert difference.compared == expected.scores.size > 0


def test_it_finds_what_pytorch_and_onnx_runtime_find(exported: Exported, tmp_path: Path) -> None:
    """Given pixels, and what the network reads; of graphs with float32 and uint8 inputs."""
    sample, file = exported.sample, exported.report.path
    assert len(sample.pixels) > 2
    for images in (sample.pixels, sample.inputs):
        agree(file, images, sample.sizes, sample.scale, sample.expected)
    file = reading_uint8(file, tmp_path / "uint8.onnx")
    agree(file, sample.pixels, sample.sizes, sample.scale, sample.expected, uint8=True)


@pytest.mark.slow
def test_an_input_that_is_no_square(tmp_path: Path) -> None:
    sizes = np.array([[96, 64], [50, 70], [200, 100]])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, *SIZE), dtype=np.uint8)
    agree(micro_onnx(micro_checkpoint(tmp_path)), pixels, sizes, np.tile(np.array(SIZE[::-1]) / sizes, 2))


def test_threads_share_it(exported: Exported, tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    detector = Detector.load(exported.report.path, backend="openvino")
    assert detector.info.backend.startswith("openvino 20")
    assert detector.info.backend.endswith(" (CPU)")
    alone = [detector.detect(path, 0.0) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone * 4, pool.map(lambda path: detector.detect(path, 0.0), paths * 4)):
            np.testing.assert_array_equal(one.scores, other.scores)
            np.testing.assert_array_equal(one.boxes, other.boxes)


def test_signals_after_the_last_detector_is_gone_in_another_thread(tmp_path: Path) -> None:
    """OpenVINO frees the stack that it gave the main thread for signals; it must not come to that."""
    script = """
import faulthandler, signal, sys, threading
faulthandler.enable()  # gives signals a stack of their own, as pytest does
from isdfine import Detector
held = [Detector.load(sys.argv[1], backend="openvino")]
releasing = threading.Thread(target=held.clear)
releasing.start()
releasing.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGTERM)
"""
    graph = constant_graph(tmp_path / "m.onnx", **OURS)
    done = subprocess.run([sys.executable, "-c", script, str(graph)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize("batch", ["N", 3])
def test_batches_of_any_and_of_one_size(tmp_path: Path, batch: int | str) -> None:
    graph = constant_graph(tmp_path / "m.onnx", batch=batch, **OURS)
    detector = Detector.load(graph, batch_size=4, backend="openvino")
    assert detector.info.max_batch == (None if batch == "N" else batch)
    found = detector.detect([np.full((10, 20 + n, 3), 51 * n, np.uint8) for n in range(5)], 0.0)
    np.testing.assert_allclose([answer.scores[0] for answer in found], [0, 0.2, 0.4, 0.6, 0.8], atol=1e-5)
    assert [answer.boxes[0].tolist() for answer in found] == [[0, 0, 20 + n, 10] for n in range(5)]


def test_an_official_export_needs_names(tmp_path: Path) -> None:
    path = constant_graph(tmp_path / "official.onnx")
    with pytest.raises(CheckpointError, match=r"not written by isdfine \(no isdfine_version .*class names \(names=\)"):
        Detector.load(path, backend="openvino")
    assert Detector.load(path, backend="openvino", names=["a", "b"]).detect(GREY, 0.0).names == ["a"]


def test_models_that_cannot_be_used(tmp_path: Path) -> None:
    other = constant_graph(tmp_path / "other.onnx", io=("pixel_values", "sizes", "logits", "pred_boxes", "s"))
    with pytest.raises(CheckpointError, match=r"other.onnx: has the inputs pixel_values, sizes and the outputs"):
        Detector.load(other, backend="openvino")
    (tmp_path / "broken.onnx").write_bytes(b"")
    with pytest.raises(
        CheckpointError,
        match=r"broken.onnx \(0 bytes\): OpenVINO cannot load it \(Unable to read the model.* is damaged",
    ) as caught:
        Detector.load(tmp_path / "broken.onnx", backend="openvino")
    assert "\n" not in str(caught.value)
    path = constant_graph(tmp_path / "m.onnx", **OURS, **{SUM_KEY: NO_SUM})
    write_with_sum(path, path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"light", b"right"))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        Detector.load(path, backend="openvino")
    with pytest.raises(CheckpointError, match=r"absent.onnx: no such file: check the path"):
        Detector.load(tmp_path / "absent.onnx", backend="openvino")


def test_a_graph_that_stops(tmp_path: Path) -> None:
    """OpenVINO's exception has places in its source on lines of its own."""
    detector = Detector.load(constant_graph(tmp_path / "m.onnx", **OURS), backend="openvino")
    with pytest.raises(
        CheckpointError, match=r"m.onnx: OpenVINO stopped at 1 images of 8 x 8 \(.*\): the gr"
    ) as caught:
        detector.backend.run(np.zeros((1, 3, 8, 8), np.float32), np.array([[8, 8]]))
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_packages_devices_and_backends_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = constant_graph(tmp_path / "m.onnx", **OURS)
    with pytest.raises(ConfigError, match=r"device is 'cuda', OpenVINO finds here only cpu.*: give one"):
        Detector.load(path, device="cuda", backend="openvino")
    with pytest.raises(ConfigError, match=r"m.onnx: backend is 'ncnn': this file is run by onnx or openvino$"):
        Detector.load(path, backend="ncnn")
    with pytest.raises(ConfigError, match=r"a.pth: backend is 'openvino': this file is run by torch$"):
        Detector.load(tmp_path / "a.pth", backend="openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r'^openvino is not installed: pip install "isdfine\[openvino\]"$'):
        Detector.load(path, backend="openvino")


def test_the_command_line_asks_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, infer = constant_graph(tmp_path / "m.onnx", **OURS), load_tool("infer")
    given = ["-m", str(path), str(pictures(tmp_path)[0]), "-o", str(tmp_path / "found"), "--save", "coco"]
    assert infer.main([*given, "--backend", "openvino"]) == 0
    assert infer.main([*given, "--backend", "ncnn", "--overwrite"]) == 2
    assert "m.onnx: backend is 'ncnn': this file is run by onnx or openvino" in capsys.readouterr().err
