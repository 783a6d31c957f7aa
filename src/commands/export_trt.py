# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Build a TensorRT engine (10 or 11) from an ONNX file of isdfine export, on the GPU that will run it.

isdfine trt s.onnx
isdfine trt s.onnx -o s.engine --batches 1 8 32 --timing-cache trt.cache
isdfine trt free.onnx --sizes 320 320 640 640 960 960

The network is strongly typed: what is half in the graph is half in the engine, so export it with --precision fp16 for
an FP16 engine. Experimental: written against the documented Python API and tested with a stand-in, never run on a GPU.
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core.command import add_option, command_parser, one_line_errors
from ..core.errors import CheckpointError, ConfigError
from ..core.extras import need
from ..core.files import whole_file
from ..deploy.backends.tensorrt import metadata_path
from ..deploy.onnx.export import check_writable
from ..deploy.onnx.graph import STRIDE
from ..deploy.onnx.structure import TENSORRT_OPSETS, ExportError, read_graph, structure_problems

_VERSIONS = ("10", "11")
_HALF = re.compile(r"half|fp16|float16", re.IGNORECASE)
_TYPE_KEYS = re.compile(r"data ?type|format", re.IGNORECASE)
"""TensorRT 10 writes "Format/Datatype" for a layer's tensors, 11 "Format" and "DataType"."""
_MULTIPLIES = re.compile(r"conv|gemm|matmul|matrixmultiply|fullyconnected|myelin|mha", re.IGNORECASE)
Shapes = Mapping[str, Sequence[tuple[int, ...]]]
"""Least, best and most shape of every input."""


class EngineReport(NamedTuple):
    """What was built."""

    path: Path
    precision: str
    layers: int
    half_layers: int
    """Layers that read or write float16."""


def build_engine(
    graph: Path,
    engine: Path,
    *,
    batches: Sequence[int] = (1, 1, 8),
    sizes: Sequence[tuple[int, int]] | None = None,
    timing_cache: Path | None = None,
    workspace_gb: float = 4.0,
) -> EngineReport:
    """Parse, build, inspect, and only then write the engine and its texts (``model.engine.json``).

    Args:
        graph: from ``isdfine export``.
        engine: file to write.
        batches: numbers of images that the engine takes: the least, the one it is tuned for, the most.
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
    texts = {entry.key: entry.value for entry in proto.metadata_props}
    shapes = _shapes(proto, batches, sizes, str(graph))
    trt = need("tensorrt", install="tensorrt (NVIDIA GPUs only), or use trtexec")
    if trt.__version__.split(".")[0] not in _VERSIONS:
        raise ConfigError(f"TensorRT {trt.__version__} is installed: engines are built with {' or '.join(_VERSIONS)}")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = _network(trt, builder, logger, graph)
    config = _config(trt, builder, shapes, workspace_gb)
    cache = _use_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CheckpointError(f"{graph}: TensorRT {trt.__version__} could not build it: its log above says which layer")
    if timing_cache is not None:
        _write(timing_cache, bytes(cache.serialize()))
    layers = _layers(trt, logger, bytes(plan), engine, shapes)
    report = _inspected(layers, engine, texts.get("precision", "fp32"))
    metadata_path(engine).unlink(missing_ok=True)  # that of an earlier engine must not stand beside the new one
    _write(engine, bytes(plan))
    texts |= {"tensorrt_version": str(trt.__version__), "batches": json.dumps(list(batches))}
    _write(metadata_path(engine), json.dumps(texts, indent=2).encode())
    return report


def _checked(graph: Path) -> Any:
    """A graph that TensorRT reads as it is meant."""
    proto = read_graph(graph)
    if problems := structure_problems(proto):
        raise ExportError(f"{graph}: " + "; ".join(problems))
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset not in TENSORRT_OPSETS and any(node.op_type == "GridSample" for node in proto.graph.node):
        raise ConfigError(
            f"{graph}: TensorRT misreads GridSample of opset {opset} (NVIDIA/TensorRT issue 4646): export with --opset "
            f"{TENSORRT_OPSETS[-1]} or less"
        )
    return proto


def _shapes(proto: Any, batches: Sequence[int], sizes: Sequence[tuple[int, int]] | None, place: str) -> Shapes:
    if not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise ConfigError(f"batches are {', '.join(map(str, batches))}: give them as least <= best <= most, from 1 on")
    rows, columns = proto.graph.input[0].type.tensor_type.shape.dim[2:]
    fixed = rows.HasField("dim_value") and columns.HasField("dim_value")
    if fixed and sizes is not None:
        raise ConfigError(f"{place}: takes images of {rows.dim_value} x {columns.dim_value} only: leave --sizes out")
    if not fixed and (sizes is None or len(sizes) != 3):
        raise ConfigError(f"{place}: height and width are free: give the least, the best and the most with --sizes")
    sizes = [(rows.dim_value, columns.dim_value)] * 3 if sizes is None else sizes
    ordered = all(least <= best <= most for least, best, most in zip(*sizes))
    if not ordered or any(side < STRIDE or side % STRIDE for size in sizes for side in size):
        raise ConfigError(
            f"{place}: sizes are {', '.join(f'{height} x {width}' for height, width in sizes)}: give them as least <= "
            f"best <= most, in steps of {STRIDE} pixels"
        )
    images = [(batch, 3, *size) for batch, size in zip(batches, sizes)]
    return {"images": images, "orig_target_sizes": [(batch, 2) for batch in batches]}


def _network(trt: Any, builder: Any, logger: Any, graph: Path) -> Any:
    """The parsed network. TensorRT 11 knows strongly typed networks only and ignores the flag, if it still has it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise CheckpointError(f"{graph}: TensorRT {trt.__version__} cannot read it ({reasons})")
    return network


def _config(trt: Any, builder: Any, shapes: Shapes, workspace_gb: float) -> Any:
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


def _layers(trt: Any, logger: Any, plan: bytes, path: Path, shapes: Shapes) -> list[Mapping[str, Any]]:
    """What the inspector says of every layer at the best shapes: of free shapes it tells no types otherwise."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        raise CheckpointError(f"{path}: TensorRT {trt.__version__} cannot run the engine that it has just built")
    for name, (_, best, _) in shapes.items():
        if not context.set_input_shape(name, best):
            built = f"{path}: TensorRT {trt.__version__} refuses {name} of {best}, which it was built for"
            raise CheckpointError(built)
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]


def _inspected(layers: Sequence[Mapping[str, Any]], path: Path, precision: str) -> EngineReport:
    """Refuse an engine whose layers compute in another precision than the graph."""
    half = sum(_is_half(layer) for layer in layers)
    heavy = [layer for layer in layers if _MULTIPLIES.search(f"{layer.get('LayerType', '')} {layer.get('Name', '')}")]
    known = [_is_half(layer) for layer in heavy if _types(layer)]
    if precision == "fp16" and not known:
        raise ExportError(f"{path}: the engine tells no types of its {len(layers)} layers, so its precision is unknown")
    if precision == "fp16" and sum(known) * 2 < len(known):
        raise ExportError(
            f"{path}: not an FP16 engine: {sum(known)} of {len(known)} convolutions and products are in half "
            "precision; the graph is, so this TensorRT changed it: try another version"
        )
    if precision == "fp32" and half:
        raise ExportError(f"{path}: {half} of {len(layers)} layers are in half precision, the graph has none")
    return EngineReport(path, precision, len(layers), half)


def _is_half(layer: Mapping[str, Any]) -> bool:
    return any(_HALF.search(kind) for kind in _types(layer))


def _types(layer: Mapping[str, Any]) -> list[str]:
    """What a layer says of the types of its weights and tensors; ``N/A due to dynamic shapes`` says nothing."""
    weights, tensors = layer.get("Weights"), [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
    told = [weights.get("Type")] if isinstance(weights, dict) else []
    told += [kind for tensor in tensors for key, kind in tensor.items() if _TYPE_KEYS.search(key)]
    return [str(kind) for kind in told if kind and not str(kind).startswith("N/A")]


def _write(path: Path, content: bytes) -> None:
    try:
        with whole_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        where = f"{path}: could not be written ({error.strerror})"
        raise ConfigError(f"{where}: free space or choose another output") from None


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    parser.add_argument("graph", type=Path, help=".onnx file")
    add_option(parser, "output", help="file to write; default: the graph's name with .engine")
    parser.add_argument("--batches", type=int, nargs=3, default=(1, 1, 8), metavar=("LEAST", "BEST", "MOST"),
                        help="images per call: least, usual, most")  # fmt: skip
    parser.add_argument("--sizes", type=int, nargs=6, metavar=("H", "W", "H", "W", "H", "W"),
                        help="least, best and most size of a graph of free size")  # fmt: skip
    parser.add_argument("--timing-cache", type=Path, help="file that keeps the timings of this GPU")
    parser.add_argument("--workspace", type=float, default=4.0, metavar="GB", help="memory that kernels may use")
    return parser.parse_args(arguments)


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command: 2 for a mistake of the user, 1 for an engine that is not the graph; each is one line."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    flat = options.sizes
    try:
        report = build_engine(
            options.graph,
            options.output or options.graph.with_suffix(".engine"),
            batches=options.batches,
            sizes=None if flat is None else [(flat[0], flat[1]), (flat[2], flat[3]), (flat[4], flat[5])],
            timing_cache=options.timing_cache,
            workspace_gb=options.workspace,
        )
    except ExportError as error:
        print(f"error: nothing was written: {error}", file=sys.stderr)
        return 1
    print(
        f"written: {report.path} ({report.precision}; {report.half_layers} of {report.layers} layers in half precision)"
    )
    return 0
