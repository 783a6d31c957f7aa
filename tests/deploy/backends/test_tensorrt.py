# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The sequence of calls to TensorRT, with a module that looks like it: the real one has not been run."""

import ctypes
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from detector_cases import LABELS
from isdfine import Detector
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.deploy.backends import tensorrt as backend

METADATA = {"isdfine_version": "0", "names": '["dark", "light"]', "ids": "[3, 7]", "size": "[32, 64]"}
TYPES = {"images": "FLOAT", "orig_target_sizes": "INT64", "labels": "INT64", "boxes": "FLOAT", "scores": "HALF"}
BYTES = {"FLOAT": np.float32, "INT64": np.int64, "HALF": np.float16}


class FakeContext:
    """Answers with the mean of the first image row's pixels as score and the whole image as box."""

    def __init__(self, calls: list[str]) -> None:
        self.calls, self.shapes, self.places = calls, {}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.calls.append(f"shape {name}")
        self.shapes[name] = shape
        return shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shapes["images"][0], 1, 4) if name == "boxes" else (self.shapes["images"][0], 1)

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.calls.append(f"address {name}")
        self.places[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.calls.append(f"execute {stream}")
        images, sizes, labels, boxes, scores = (self._at(name) for name in TYPES)
        labels[:] = 1
        boxes[:, 0] = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        scores[:, 0] = images.mean(axis=(1, 2, 3))
        return True

    def _at(self, name: str) -> np.ndarray:
        shape = self.shapes.get(name) or self.get_tensor_shape(name)
        kind = np.dtype(BYTES[TYPES[name]])
        content = (ctypes.c_byte * (int(np.prod(shape)) * kind.itemsize)).from_address(self.places[name])
        return np.frombuffer(content, kind).reshape(shape)


class FakeLogger:
    WARNING = 2

    def __init__(self, level: int) -> None:
        assert level == self.WARNING


class FakeTensorRT(SimpleNamespace):
    """The part of the module that the backend uses."""

    def __init__(self, names: list[str], profile: int = 4) -> None:
        self.calls: list[str] = []
        context = FakeContext(self.calls)
        engine = SimpleNamespace(
            num_io_tensors=len(names),
            get_tensor_name=lambda index: names[index],
            get_tensor_mode=lambda name: "in" if names.index(name) < 2 else "out",
            get_tensor_dtype=lambda name: TYPES.get(name, "FLOAT"),
            get_tensor_shape=lambda name: (-1, 3, 32, 64),
            get_tensor_profile_shape=lambda name, index: [(1, 3, 32, 64), (1, 3, 32, 64), (profile, 3, 32, 64)],
            create_execution_context=lambda: context,
        )

        class Runtime:
            def __init__(self, logger: FakeLogger) -> None:
                pass

            def deserialize_cuda_engine(self, content: bytes) -> Any:
                return engine if content == b"engine" else None

        super().__init__(
            __version__="10.4.0",
            Logger=FakeLogger,
            nptype=BYTES.__getitem__,
            Runtime=Runtime,
            TensorIOMode=SimpleNamespace(INPUT="in"),
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT and a GPU, neither of them real."""
    module = FakeTensorRT(list(TYPES))
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(backend, "pick_device", lambda _: torch.device("cpu"))
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: module.calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    return module


def write_engine(folder: Path, metadata: dict[str, str] | None = METADATA, content: bytes = b"engine") -> Path:
    path = folder / "model.engine"
    path.write_bytes(content)
    if metadata is not None:
        backend.metadata_path(path).write_text(json.dumps(metadata))
    return path


def test_the_sequence_of_calls(tmp_path: Path, fake: FakeTensorRT) -> None:
    detector = Detector.load(write_engine(tmp_path), batch_size=8)
    assert (detector.batch_size, detector.info.max_batch) == (4, 4), "no more than the engine was built for"
    assert detector.info.backend == "tensorrt 10.4.0 (cpu)"
    images = [np.full((10, 20 + number, 3), 51 * number, np.uint8) for number in range(5)]
    found = detector.detect(images, 0.0)
    np.testing.assert_allclose([one.scores[0] for one in found], [0, 0.2, 0.4, 0.6, 0.8], atol=1e-3)
    assert [one.boxes[0].tolist() for one in found] == [[0, 0, 20 + number, 10] for number in range(5)]
    assert (found[0].label_space, found[0].names) == (LABELS, ["light"])
    once = ["shape images", "shape orig_target_sizes", "address images", "address orig_target_sizes"]
    once += ["address labels", "address boxes", "address scores", "execute 7", "wait"]
    assert fake.calls == once * 2


def test_an_engine_of_another_version(tmp_path: Path, fake: FakeTensorRT) -> None:
    said = "its log above says why: an engine runs only with the TensorRT version"
    with pytest.raises(CheckpointError, match=r"TensorRT 10.4.0 cannot load it, " + said):
        Detector.load(write_engine(tmp_path, content=b"old"))
    with pytest.raises(CheckpointError, match=r"cannot load it \(it was built with 11.0\), " + said):
        Detector.load(write_engine(tmp_path, METADATA | {"tensorrt_version": "11.0"}, content=b"old"))


def test_metadata_beside_the_engine_or_of_its_graph(tmp_path: Path, fake: FakeTensorRT) -> None:
    with pytest.raises(CheckpointError, match="was not written by isdfine"):
        Detector.load(write_engine(tmp_path, metadata=None))
    assert Detector.load(write_engine(tmp_path, metadata=None), names=["a", "b"]).label_space.names == ("a", "b")
    (tmp_path / "model.engine.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"model.engine.json: cannot be read .*build the engine again"):
        Detector.load(tmp_path / "model.engine")


def test_metadata_of_the_graph(tmp_path: Path, fake: FakeTensorRT) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    same = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [value], [same])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.helper.set_model_props(model, METADATA)
    onnx.save(model, tmp_path / "model.onnx")
    assert Detector.load(write_engine(tmp_path, metadata=None)).label_space == LABELS


def test_another_projects_engine(tmp_path: Path, fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(["input", "sizes", "output0", "output1", "output2"]))
    with pytest.raises(
        CheckpointError, match=r"has the inputs input, sizes and the outputs output0.*another project's"
    ):
        Detector.load(write_engine(tmp_path))


def test_a_batch_or_size_it_was_not_built_for(tmp_path: Path, fake: FakeTensorRT) -> None:
    engine = Detector.load(write_engine(tmp_path)).backend
    with pytest.raises(
        ConfigError, match=r"not built for images of the shape \(5, 3, 32, 64\): build it with a larger"
    ):
        engine.run(np.zeros((5, 3, 32, 64), np.uint8), np.ones((5, 2), np.int64))


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ConfigError, match=r"tensorrt is not installed: pip install tensorrt .*that built it"):
        Detector.load(write_engine(tmp_path))
