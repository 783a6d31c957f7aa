# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The calls that build an engine, with a stand-in for TensorRT: the package needs a GPU and is not installed here."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from builders import load_tool
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.deploy.onnx.structure import ExportError

onnx = pytest.importorskip("onnx", reason="pip install onnx")
build_engine = load_tool("export_trt").build_engine
TENSOR_10 = {"Format/Datatype": "Row major linear FP16 format"}
TENSOR_11 = {"Format": "Row major linear format", "DataType": "Half"}


class FakeTensorRT:
    """Records what is called; layers and failures are set by the test."""

    def __init__(self, version: str = "10.8.0", layers: list[Any] | None = None) -> None:
        self.calls: list[Any] = []
        self.layers = [{"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": [TENSOR_10], "Outputs": []}]
        self.layers = self.layers if layers is None else layers
        self.errors: list[str] = []
        self.plan: bytes | None = b"plan"
        note = self.note
        flags = {"STRONGLY_TYPED": 1} if version.startswith("10") else {}
        self.cache_fits, self.profile_index = True, 0
        config = SimpleNamespace(
            set_memory_pool_limit=note("limit"), clear_flag=note("clear_flag"), profiling_verbosity=None,
            add_optimization_profile=lambda profile: note("add_profile")(profile) or self.profile_index,
            set_timing_cache=lambda *given, **named: note("set_cache")(*given, **named) or self.cache_fits,
            create_timing_cache=lambda old: note("create_cache")(old) or self._cache(old),
        )  # fmt: skip
        self.config = config
        parser = SimpleNamespace(
            parse_from_file=lambda path: note("parse")(path) or not self.errors,
            get_error=lambda i: self.errors[i],
        )
        builder = SimpleNamespace(
            create_network=lambda flag: note("network")(flag) or "network",
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=note("shape")),
            build_serialized_network=lambda *given: note("build")(*given) or self.plan,
        )
        self.shapes_fit = True
        context = SimpleNamespace(set_input_shape=lambda *given: note("input")(*given) or self.shapes_fit)
        inspector = SimpleNamespace(execution_context=None)
        inspector.get_engine_information = lambda _: json.dumps({"Layers": self._told(inspector.execution_context)})
        engine = SimpleNamespace(
            create_engine_inspector=lambda: inspector,
            create_execution_context=lambda: context,
        )
        self.module = SimpleNamespace(
            __version__=version,
            Logger=type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None}),
            Builder=lambda logger: builder,
            NetworkDefinitionCreationFlag=SimpleNamespace(**flags),
            OnnxParser=lambda network, logger: self._with_count(parser),
            MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
            ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
            BuilderFlag=SimpleNamespace(TF32="tf32"),  # no FP16: TensorRT 11 has none, and 10 must not be asked for it
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan else None),
            LayerInformationFormat=SimpleNamespace(JSON="json"),
        )

    def note(self, name: str) -> Any:
        return lambda *given, **named: self.calls.append((name, *given, *named.items()))

    @staticmethod
    def _cache(old: bytes) -> Any:
        """As TensorRT: none for bytes that are no cache."""
        return None if old == b"broken" else SimpleNamespace(serialize=lambda: b"timings")

    def _told(self, context: Any) -> list[Any]:
        """As TensorRT: tensors of free shapes have no types as long as no context gives the shapes."""
        if context is not None and [call[1] for call in self.calls if call[0] == "input"][-2:] == [
            "images",
            "orig_target_sizes",
        ]:
            return self.layers
        unknown = [{"Format/Datatype": "N/A due to dynamic shapes"}]
        return [{**layer, "Inputs": unknown, "Outputs": unknown} for layer in self.layers if isinstance(layer, dict)]

    def _with_count(self, parser: Any) -> Any:
        parser.num_errors = len(self.errors)
        return parser


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    return fake


def graph(folder: Path, *, precision: str = "fp16", free: bool = False) -> Path:
    """A file with the interface of a detector and one convolution in half precision."""
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    kind = {"fp16": np.float16, "fp32": np.float32}[precision]
    code = {"fp16": 10, "fp32": 1}[precision]
    constants = [onnx.numpy_helper.from_array(np.zeros((1, 3, 1, 1), kind), "w")]
    constants.append(onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    nodes = [
        make("Cast", ["images"], ["half"], to=code),
        make("Conv", ["half", "w"], ["map"]),
        make("Cast", ["map"], ["float"], to=1),
        make("ReduceMax", ["float", "axes"], ["scores"], keepdims=0),
        make("Cast", ["scores"], ["labels"], to=7),
        make("Unsqueeze", ["scores", "last"], ["boxes"]),
    ]
    constants.append(onnx.numpy_helper.from_array(np.array([2], np.int64), "last"))
    size: list[Any] = ["rows", "columns"] if free else [64, 96]
    inputs = [info("images", 1, ["batch", 3, *size]), info("orig_target_sizes", 7, ["batch", 2])]
    outputs = [info("labels", 7, ["batch", 1]), info("boxes", 1, ["batch", 1, 1]), info("scores", 1, ["batch", 1])]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", inputs, outputs, constants),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
    )
    onnx.helper.set_model_props(proto, {"precision": precision, "names": '["a"]'})
    path = folder / "a.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("version", "tensor", "flag"), [("10.8.0", TENSOR_10, 2), ("11.4.1", TENSOR_11, 0)], ids=["10", "11"]
)
def test_the_sequence_of_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, tensor: dict[str, str], flag: int
) -> None:
    fake = FakeTensorRT(version, [{"Name": "conv1", "LayerType": "x", "Inputs": [], "Outputs": [tensor]}, "plain"])
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    path, engine, cache = graph(tmp_path), tmp_path / "out" / "a.engine", tmp_path / "trt.cache"
    report = build_engine(path, engine, batches=(1, 4, 8), timing_cache=cache, workspace_gb=2)
    assert fake.calls == [
        ("network", flag),
        ("parse", str(path)),
        ("limit", "workspace", 2 << 30),
        ("clear_flag", "tf32"),
        ("shape", "images", (1, 3, 64, 96), (4, 3, 64, 96), (8, 3, 64, 96)),
        ("shape", "orig_target_sizes", (1, 2), (4, 2), (8, 2)),
        ("add_profile", fake.calls[6][1]),
        ("create_cache", b""),
        ("set_cache", fake.calls[8][1], ("ignore_mismatch", False)),
        ("build", "network", fake.config),
        ("input", "images", (4, 3, 64, 96)),
        ("input", "orig_target_sizes", (4, 2)),
    ]
    assert fake.config.profiling_verbosity == "detailed"
    assert (report.layers, report.half_layers, report.precision) == (1, 1, "fp16")
    assert (engine.read_bytes(), cache.read_bytes()) == (b"plan", b"timings")
    texts = json.loads((tmp_path / "out" / "a.engine.json").read_text())
    assert texts == {"precision": "fp16", "names": '["a"]', "tensorrt_version": version, "batches": "[1, 4, 8]"}
    fake.calls.clear()
    build_engine(path, engine, timing_cache=cache)
    assert ("create_cache", b"timings") in fake.calls


def test_an_engine_that_is_not_half_is_not_called_so(tmp_path: Path, fake: FakeTensorRT) -> None:
    path, engine = graph(tmp_path), tmp_path / "a.engine"
    single = {"Format/Datatype": "Row major linear FP32"}
    fake.layers = [{"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": [single], "Outputs": [single]}]
    with pytest.raises(ExportError, match="not an FP16 engine: 0 of 1 convolutions and products are in half precision"):
        build_engine(path, engine)
    fake.layers = []
    with pytest.raises(ExportError, match="tells no types of its 0 layers, so its precision is unknown"):
        build_engine(path, engine)
    hidden = {"Format/Datatype": "N/A due to dynamic shapes"}
    fake.layers = [{"Name": "conv1", "Inputs": [hidden], "Outputs": [hidden]}]
    with pytest.raises(ExportError, match="tells no types of its 1 layers, so its precision is unknown"):
        build_engine(path, engine)
    fake.layers[0]["Weights"] = {"Type": "Float", "Count": 9}
    with pytest.raises(ExportError, match="not an FP16 engine: 0 of 1"):
        build_engine(path, engine)
    assert not list(tmp_path.glob("*.engine*"))
    fake.layers[0]["Weights"]["Type"] = "Half"
    assert build_engine(path, tmp_path / "told.engine").half_layers == 1
    fake.layers = [{"Name": "conv1", "Inputs": [TENSOR_10]}]
    with pytest.raises(ExportError, match="1 of 1 layers are in half precision, the graph has none"):
        build_engine(graph(tmp_path, precision="fp32"), engine)
    assert not list(tmp_path.glob("a.engine*"))


def test_free_sizes(tmp_path: Path, fake: FakeTensorRT) -> None:
    path = graph(tmp_path, free=True)
    with pytest.raises(ConfigError, match="height and width are free: give the least, the best and the most"):
        build_engine(path, tmp_path / "a.engine")
    build_engine(path, tmp_path / "a.engine", sizes=[(64, 64), (64, 96), (96, 96)])
    assert ("shape", "images", (1, 3, 64, 64), (1, 3, 64, 96), (8, 3, 96, 96)) in fake.calls
    with pytest.raises(ConfigError, match="takes images of 64 x 96 only: leave --sizes out"):
        build_engine(graph(tmp_path), tmp_path / "b.engine", sizes=[(64, 64)] * 3)
    for sizes in ([(96, 64), (64, 96), (96, 96)], [(64, 64), (64, 90), (96, 96)]):
        with pytest.raises(ConfigError, match=r"sizes are .*: give them as least <= best <= most, in steps of 32"):
            build_engine(graph(tmp_path, free=True), tmp_path / "b.engine", sizes=sizes)


def test_what_tensorrt_refuses(tmp_path: Path, fake: FakeTensorRT) -> None:
    path, engine = graph(tmp_path), tmp_path / "a.engine"
    fake.plan = None
    with pytest.raises(CheckpointError, match=r"TensorRT 10\.8\.0 could not build it: its log above says which layer"):
        build_engine(path, engine)
    fake.plan = b""
    with pytest.raises(CheckpointError, match="cannot run the engine that it has just built"):
        build_engine(path, engine)
    fake.plan, fake.shapes_fit = b"plan", False
    with pytest.raises(CheckpointError, match=r"refuses images of \(1, 3, 64, 96\), which it was built for"):
        build_engine(path, engine)
    fake.profile_index = -1
    with pytest.raises(CheckpointError, match=r"refuses the shapes .*: its log above says why"):
        build_engine(path, engine)
    fake.profile_index = 0
    fake.errors = ["no GridSample"]
    with pytest.raises(CheckpointError, match=r"cannot read it \(no GridSample\)"):
        build_engine(path, engine)
    fake.module.__version__ = "8.6.1"
    with pytest.raises(ConfigError, match=r"TensorRT 8\.6\.1 is installed: engines are built with 10 or 11"):
        build_engine(path, engine)


def test_a_timing_cache_of_another_machine_is_not_overwritten(tmp_path: Path, fake: FakeTensorRT) -> None:
    path, cache = graph(tmp_path), tmp_path / "trt.cache"
    for content in (b"broken", b"of another GPU"):
        cache.write_bytes(content)
        fake.cache_fits = False
        with pytest.raises(
            CheckpointError, match=r"trt\.cache: no timing cache of this GPU and TensorRT: give another"
        ):
            build_engine(path, tmp_path / "a.engine", timing_cache=cache)
        assert cache.read_bytes() == content


def test_grid_sample_of_opset_20_is_refused(tmp_path: Path, fake: FakeTensorRT) -> None:
    """TensorRT takes its mode ``linear`` for nearest neighbour, in silence."""
    path = graph(tmp_path, precision="fp32")
    proto = onnx.load(str(path))
    proto.graph.node.insert(2, onnx.helper.make_node("GridSample", ["map", "grid"], ["sampled"], mode="linear"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 2), np.float32), "grid"))
    proto.opset_import[0].version = 20
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(
        ConfigError, match=r"TensorRT misreads GridSample of opset 20 .*: export with --opset 19 or less"
    ):
        build_engine(path, tmp_path / "a.engine")


def test_texts_of_an_earlier_engine_do_not_stay(
    tmp_path: Path, fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, texts = graph(tmp_path), tmp_path / "a.engine.json"
    texts.write_text('{"names": "[\\"of another model\\"]"}')
    write = Path.write_bytes

    def full_for_texts(self: Path, content: bytes) -> int:
        if ".json" in self.name:
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full_for_texts)
    with pytest.raises(ConfigError, match=r"a\.engine\.json: could not be written \(No space left on device\)"):
        build_engine(path, tmp_path / "a.engine")
    assert not texts.exists()


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="batches are 4, 2, 8: give them as least <= best <= most"):
        build_engine(graph(tmp_path), tmp_path / "a.engine", batches=(4, 2, 8))
    with pytest.raises(ConfigError, match="the workspace is 0 GB: give a positive number"):
        build_engine(graph(tmp_path), tmp_path / "a.engine", workspace_gb=0)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    tool = load_tool("export_trt")
    assert tool.main([str(graph(tmp_path))]) == 2
    assert (
        "tensorrt is not installed: pip install tensorrt (NVIDIA GPUs only), or use trtexec" in capsys.readouterr().err
    )
    assert tool.main([str(tmp_path / "none.onnx")]) == 1
    assert (
        capsys.readouterr().err == f"error: nothing was written: {tmp_path}/none.onnx: no such file: check the path\n"
    )


def test_the_tool(tmp_path: Path, fake: FakeTensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool("export_trt")
    sizes = ["--sizes", "64", "64", "64", "96", "96", "96", "--batches", "1", "2", "3"]
    assert tool.main([str(graph(tmp_path, free=True)), *sizes]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path}/a.engine (fp16; 1 of 1 layers in half precision)\n"
    assert ("shape", "images", (1, 3, 64, 64), (2, 3, 64, 96), (3, 3, 96, 96)) in fake.calls


def test_an_unwritable_place(tmp_path: Path, fake: FakeTensorRT) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="its folder cannot be made"):
        build_engine(graph(tmp_path), tmp_path / "file" / "a.engine")
    with pytest.raises(ConfigError, match="is a folder"):
        build_engine(graph(tmp_path), tmp_path / "a.engine", timing_cache=tmp_path)
    assert fake.calls == []  # known before the minutes of a build
