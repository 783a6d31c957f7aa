# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What must be true of a graph before it is run: faults that a comparison on one machine may not show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.extras import need
from ..backends.base import INPUTS, OUTPUTS
from .half import FLOAT, HALF, HEAVY, misplaced, share

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

_STANDARD = ("", "ai.onnx")
_CONTROL_FLOW = ("If", "Loop", "Scan")
_UINT8, _INT64 = 2, 7
_TYPES = {
    "images": (FLOAT, _UINT8),
    "orig_target_sizes": (_INT64,),
    "labels": (_INT64,),
    "boxes": (FLOAT,),
    "scores": (FLOAT,),
}
_RANKS = {"images": 4, "orig_target_sizes": 2, "labels": 2, "boxes": 3, "scores": 2}
_NATIVE_LAYER_NORM = 17
TENSORRT_OPSETS = range(_NATIVE_LAYER_NORM, 20)
"""Opset 20 renamed GridSample's mode ``bilinear`` to ``linear``; TensorRT 10.13 to 11.1 do not know that name and
sample the nearest pixel in silence (NVIDIA/TensorRT issue 4646, onnx/onnx-tensorrt pull request 1060)."""
_HALF_AT_LEAST = 0.9
"""Share of the weights that a graph called fp16 holds in float16; exports of ours reach 0.99."""


class ExportError(ValueError):
    """An ONNX file is not the model that it should be."""


def read_graph(path: str | Path) -> ModelProto:
    """An ONNX file that has our inputs and outputs.

    Raises:
        ExportError: it cannot be read, is no valid ONNX, or is of another project.
    """
    onnx, message = need("onnx", "export"), need("google.protobuf.message", "export")
    try:
        proto: ModelProto = onnx.load(str(path))
        onnx.checker.check_model(proto)
    except FileNotFoundError:
        raise ExportError(f"{path}: no such file: check the path") from None
    except (OSError, message.DecodeError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"{path}: no valid ONNX file ({reason}): export the model again") from error
    check_names(proto, str(path))
    return proto


def check_names(proto: ModelProto, place: str) -> None:
    """ExportError for a graph whose inputs or outputs are not those of a detector of ours."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = tuple(value.name for value in proto.graph.input if value.name not in constants)
    outputs = tuple(value.name for value in proto.graph.output)
    if inputs != INPUTS or outputs != OUTPUTS:
        raise ExportError(
            f"{place}: its inputs are {', '.join(inputs) or 'none'} and its outputs {', '.join(outputs) or 'none'}, "
            f"expected {', '.join(INPUTS)} and {', '.join(OUTPUTS)}: this is an ONNX file of another project"
        )


def structure_problems(
    proto: ModelProto, *, precision: str | None = None, layer_norms: int | None = None, dynamic_size: bool = False
) -> list[str]:
    """Everything that is wrong with a graph, as sentences.

    Args:
        proto: from :func:`read_graph`.
        precision: ``fp32`` or ``fp16``, what the file is called; None for what its metadata say.
        layer_norms: that the model runs, each counted once; None if unknown.
        dynamic_size: height and width must be free.
    """
    stated = {entry.key: entry.value for entry in proto.metadata_props}.get("precision", "fp32")
    problems = [*_interface_problems(proto, dynamic_size=dynamic_size), *_operator_problems(proto)]
    problems += _layer_norm_problems(proto, layer_norms)
    if any(node.domain not in _STANDARD for node in proto.graph.node):
        return problems  # the types of such a graph cannot be worked out
    return problems + _precision_problems(proto, precision or stated)


def _interface_problems(proto: ModelProto, *, dynamic_size: bool) -> list[str]:
    problems, batches = [], set()
    for value in (*proto.graph.input, *proto.graph.output):
        dims = _dims(value)
        kind = value.type.tensor_type.elem_type
        if kind not in _TYPES[value.name]:
            problems.append(
                f"{value.name} has element type {kind}, expected {' or '.join(map(str, _TYPES[value.name]))}"
            )
        if len(dims) != _RANKS[value.name]:
            problems.append(f"{value.name} has {len(dims)} dimensions, expected {_RANKS[value.name]}")
            continue
        batches.add(dims[0])
        if isinstance(dims[0], int):
            problems.append(f"{value.name}: the batch is baked in as {dims[0]}")
        if value.name == "images" and dynamic_size and any(isinstance(side, int) for side in dims[2:]):
            problems.append(f"images: height and width are {dims[2]} x {dims[3]}, asked for free ones")
    names = {name for name in batches if isinstance(name, str) and name}
    if len(names) > 1:
        problems.append(
            f"the batch has several names ({', '.join(sorted(names))}): inputs and outputs do not belong together"
        )
    return problems


def _dims(value: ValueInfoProto) -> list[int | str]:
    shape = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in shape]


def _operator_problems(proto: ModelProto) -> list[str]:
    problems = []
    foreign = {f"{node.domain}.{node.op_type}" for node in proto.graph.node if node.domain not in _STANDARD}
    if foreign:
        problems.append(f"operations outside the ONNX standard: {', '.join(sorted(foreign))}")
    if proto.functions:
        problems.append(f"{len(proto.functions)} functions of its own instead of one flat graph")
    flow = sorted({node.op_type for node in proto.graph.node if node.op_type in _CONTROL_FLOW})
    if flow:
        problems.append(f"control flow ({', '.join(flow)}), which runtimes cannot fuse")
    opset = next((entry.version for entry in proto.opset_import if entry.domain in _STANDARD), 0)
    if opset < _NATIVE_LAYER_NORM:
        problems.append(f"opset {opset} has no LayerNormalization: export with opset {_NATIVE_LAYER_NORM} or newer")
    return problems


def _layer_norm_problems(proto: ModelProto, layer_norms: int | None) -> list[str]:
    native = Counter(node.op_type for node in proto.graph.node)["LayerNormalization"]
    split = _split_norms(proto)
    if split:
        return [
            f"layer norm is split into parts that overflow in fp16 ({split} times; {native} LayerNormalization): "
            "export with opset 17 or newer"
        ]
    if layer_norms is not None and native < layer_norms:
        return [f"{native} LayerNormalization for {layer_norms} layer norms of the model: the others were rewritten"]
    return []


def _split_norms(proto: ModelProto) -> int:
    """Square roots of a mean of squared distances from a mean."""
    maker = {name: node for node in proto.graph.node for name in node.output}

    def made_by(name: str, *kinds: str) -> NodeProto | None:
        node = maker.get(name)
        return node if node is not None and node.op_type in kinds else None

    def is_split(root: NodeProto) -> bool:
        total = made_by(root.input[0], "Add")
        means = [made_by(name, "ReduceMean") for name in (total.input if total else ())]
        squares = [made_by(node.input[0], "Pow", "Mul") for node in means if node]
        distances = [made_by(node.input[0], "Sub") for node in squares if node]
        return any(made_by(name, "ReduceMean") for node in distances if node for name in node.input)

    return sum(is_split(node) for node in proto.graph.node if node.op_type == "Sqrt")


def _precision_problems(proto: ModelProto, precision: str) -> list[str]:
    counted = share(proto)
    if precision == "fp32":
        return [f"called fp32, but {counted.describe()}"] if counted.half_weights or counted.half_nodes else []
    heavy = _heavy_weights(proto)
    part = heavy[HALF] / max(1, heavy[HALF] + heavy[FLOAT])
    problems = []
    if part < _HALF_AT_LEAST:
        problems.append(
            f"called fp16, but {part:.0%} of the weights of convolutions and linear layers are in float16, expected "
            f"{_HALF_AT_LEAST:.0%}"
        )
    if wrong := misplaced(proto):
        problems.append(
            f"called fp16, but these compute in float16 and must not: {', '.join(wrong)}; export with "
            "--precision fp16, which keeps them in float32"
        )
    return problems


def _heavy_weights(proto: ModelProto) -> dict[int, int]:
    """Numbers by element type in initialisers that convolutions and products read."""
    read = {name for node in proto.graph.node if node.op_type in HEAVY for name in node.input}
    count: dict[int, Any] = {FLOAT: 0, HALF: 0}
    for tensor in proto.graph.initializer:
        if tensor.name in read and tensor.data_type in count:
            count[tensor.data_type] += int(np.prod(tensor.dims))
    return count
