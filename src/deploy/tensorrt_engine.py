# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Build a TensorRT engine from an ONNX file, strongly typed: what is half in the graph is half in the engine.

Written against the documented Python API of TensorRT 10 and 11 and tested with a stand-in; not run on a GPU yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.environment import require
from ..core.errors import CheckpointError, ConfigError
from ..core.files import whole_file
from .onnx.export import check_writable
from .onnx.graph import STRIDE
from .onnx.structure import TENSORRT_OPSETS, ExportError, read_graph, structure_problems

VERSIONS = (10, 11)
_HALF = re.compile(r"half|fp16|float16", re.IGNORECASE)
_TYPE_KEYS = re.compile(r"data ?type|format", re.IGNORECASE)
"""TensorRT 10 writes "Format/Datatype" for a layer's tensors, 11 "Format" and "DataType"."""
_MULTIPLIES = re.compile(r"conv|gemm|matmul|matrixmultiply|fullyconnected|myelin|mha", re.IGNORECASE)


@dataclass(frozen=True)
class EngineReport:
    """What was built."""

    path: Path
    precision: str
    layers: int
    half_layers: int
    """Layers that read or write float16."""


@dataclass(frozen=True)
class Batches:
    """Numbers of images that an engine takes: the least, the one it is tuned for, the most."""

    least: int = 1
    best: int = 1
    most: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise ConfigError(
                f"batches are {self.least}, {self.best}, {self.most}: give them as least <= best <= most, from 1 on"
            )


def build_engine(
    graph: Path,
    engine: Path,
    *,
    batches: Batches = Batches(),
    sizes: Sequence[tuple[int, int]] | None = None,
    timing_cache: Path | None = None,
    workspace_gb: float = 4.0,
) -> EngineReport:
    """Parse, build, inspect, and only then write the engine and its texts (``model.engine.json``).

    Args:
        graph: from ``tools/export_onnx.py``.
        engine: file to write.
        batches: of the optimisation profile.
        sizes: least, best and most (height, width) of a graph of free size; None for graphs of one size.
        timing_cache: read if it is there, and written: the next build on the same GPU takes seconds.
        workspace_gb: memory that kernels may use, in 2^30 bytes.

    Raises:
        ConfigError: no TensorRT 10 or 11 here, sizes that do not fit the graph, or a file that cannot be written.
        ExportError: the graph is no detector of ours, or the engine is not what the graph says.
        CheckpointError: TensorRT could not build it, or a timing cache that is not of this TensorRT and GPU.
    """
    if workspace_gb <= 0:
        raise ConfigError(f"the workspace is {workspace_gb} GB: give a positive number")
    for file in (engine, *([timing_cache] if timing_cache else [])):
        check_writable(file)
    proto = _checked(graph)
    metadata = {one.key: one.value for one in proto.metadata_props}
    profile = _profile(proto, batches, sizes, str(graph))
    trt = _package()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = _network(trt, builder, logger, graph)
    config = _config(trt, builder, profile, workspace_gb)
    cache = _use_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CheckpointError(f"{graph}: TensorRT {trt.__version__} could not build it: its log above says which layer")
    if timing_cache is not None:
        _write(timing_cache, bytes(cache.serialize()))
    content = bytes(plan)
    report = _inspect(trt, logger, content, engine, metadata.get("precision", "fp32"), profile)
    texts = engine.with_name(f"{engine.name}.json")
    texts.unlink(missing_ok=True)  # those of an earlier engine must not stand beside the new one
    _write(engine, content)
    _write(texts, json.dumps(_texts(metadata, trt, batches), indent=2).encode())
    return report


def _checked(graph: Path) -> Any:
    """A graph that TensorRT reads as it is meant."""
    proto = read_graph(graph)
    if problems := structure_problems(proto):
        raise ExportError(f"{graph}: " + "; ".join(problems))
    opset = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    if opset not in TENSORRT_OPSETS and any(node.op_type == "GridSample" for node in proto.graph.node):
        raise ConfigError(
            f"{graph}: TensorRT misreads GridSample of opset {opset} (NVIDIA/TensorRT issue 4646): export with --opset "
            f"{TENSORRT_OPSETS[-1]} or less"
        )
    return proto


def _package() -> Any:
    trt = require("tensorrt", "building engines", "tensorrt (NVIDIA GPUs only), or use trtexec")
    if int(trt.__version__.split(".")[0]) not in VERSIONS:
        raise ConfigError(
            f"TensorRT {trt.__version__} is installed: engines are built with {' or '.join(map(str, VERSIONS))}"
        )
    return trt


def _profile(
    proto: Any, batches: Batches, sizes: Sequence[tuple[int, int]] | None, place: str
) -> dict[str, list[tuple[int, ...]]]:
    """Least, best and most shape of every input."""
    rows, columns = proto.graph.input[0].type.tensor_type.shape.dim[2:]
    fixed = rows.HasField("dim_value") and columns.HasField("dim_value")
    if fixed and sizes is not None:
        raise ConfigError(f"{place}: takes images of {rows.dim_value} x {columns.dim_value} only: leave --sizes out")
    if not fixed and (sizes is None or len(sizes) != 3):
        raise ConfigError(f"{place}: height and width are free: give the least, the best and the most with --sizes")
    shapes = [(rows.dim_value, columns.dim_value)] * 3 if sizes is None else list(sizes)
    ordered = all(least <= best <= most for least, best, most in zip(*shapes))
    if not ordered or any(side < STRIDE or side % STRIDE for size in shapes for side in size):
        raise ConfigError(
            f"{place}: sizes are {', '.join(f'{height} x {width}' for height, width in shapes)}: give them as least <= "
            f"best <= most, in steps of {STRIDE} pixels"
        )
    counts = (batches.least, batches.best, batches.most)
    return {
        "images": [(count, 3, *size) for count, size in zip(counts, shapes)],
        "orig_target_sizes": [(count, 2) for count in counts],
    }


def _network(trt: Any, builder: Any, logger: Any, graph: Path) -> Any:
    """The parsed network. TensorRT 11 knows strongly typed networks only and ignores the flag, if it still has it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise CheckpointError(f"{graph}: TensorRT {trt.__version__} cannot read it ({reasons})")
    return network


def _config(trt: Any, builder: Any, shapes: Mapping[str, Sequence[tuple[int, ...]]], workspace_gb: float) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace_gb * (1 << 30)))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector knows no types
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and rounds float32 products to ten bits
    profile = builder.create_optimization_profile()
    for name, (least, best, most) in shapes.items():
        profile.set_shape(name, least, best, most)
    if config.add_optimization_profile(profile) < 0:
        raise CheckpointError(f"TensorRT {trt.__version__} refuses the shapes {dict(shapes)}: its log above says why")
    return config


def _use_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise CheckpointError(f"{path}: no timing cache of this GPU and TensorRT: give another file to --timing-cache")
    return cache


def _inspect(
    trt: Any, logger: Any, plan: bytes, path: Path, precision: str, shapes: Mapping[str, Sequence[tuple[int, ...]]]
) -> EngineReport:
    """Ask the engine what its layers compute in."""
    layers = _layers(trt, logger, plan, path, shapes)
    half = [one for one in layers if _is_half(one)]
    report = EngineReport(path, precision, len(layers), len(half))
    heavy = [one for one in layers if _MULTIPLIES.search(f"{one.get('LayerType', '')} {one.get('Name', '')}")]
    known = [one for one in heavy if _types(one)]
    if precision == "fp16" and not known:
        raise ExportError(f"{path}: the engine tells no types of its {len(layers)} layers, so its precision is unknown")
    computing = [one for one in known if _is_half(one)]
    if precision == "fp16" and len(computing) * 2 < len(known):
        raise ExportError(
            f"{path}: not an FP16 engine: {len(computing)} of {len(known)} convolutions and products are in half "
            "precision; the graph is, so this TensorRT changed it: try another version"
        )
    if precision == "fp32" and half:
        raise ExportError(f"{path}: {len(half)} of {len(layers)} layers are in half precision, the graph has none")
    return report


def _layers(
    trt: Any, logger: Any, plan: bytes, path: Path, shapes: Mapping[str, Sequence[tuple[int, ...]]]
) -> list[dict[str, Any]]:
    """What the inspector says of every layer at the best shapes: of free shapes it tells no formats otherwise."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        raise CheckpointError(f"{path}: TensorRT {trt.__version__} cannot run the engine that it has just built")
    for name, (_, best, _) in shapes.items():
        if not context.set_input_shape(name, best):
            raise CheckpointError(
                f"{path}: TensorRT {trt.__version__} refuses {name} of {best}, which it was built for"
            )
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return [one for one in json.loads(text).get("Layers", []) if isinstance(one, dict)]


def _is_half(layer: Mapping[str, Any]) -> bool:
    return any(_HALF.search(one) for one in _types(layer))


def _types(layer: Mapping[str, Any]) -> list[str]:
    """What a layer says of the types of its weights and tensors; ``N/A due to dynamic shapes`` says nothing."""
    weights = layer.get("Weights")
    found = [str(weights.get("Type", ""))] if isinstance(weights, dict) else []
    tensors = [one for key in ("Inputs", "Outputs") for one in layer.get(key, ()) if isinstance(one, dict)]
    found += [str(value) for one in tensors for key, value in one.items() if _TYPE_KEYS.search(key)]
    return [one for one in found if one and not one.startswith("N/A")]


def _texts(metadata: Mapping[str, str], trt: Any, batches: Batches) -> dict[str, str]:
    """What the graph said, and what an engine depends on: it cannot carry texts itself."""
    counts = json.dumps([batches.least, batches.best, batches.most])
    return {**metadata, "tensorrt_version": str(trt.__version__), "batches": counts}


def _write(path: Path, content: bytes) -> None:
    try:
        with whole_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"{path}: could not be written ({error.strerror}): free space or choose another output"
        ) from None
