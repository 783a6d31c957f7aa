# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Keep runtimes from merging a zero border into a max pooling.

HGNetv2's stem pads with zeros after a learned affine, whose results may be negative, and pools then. A pooling's own
border counts as minus infinity. ONNX Runtime up to 1.31 (Pad_Fusion, microsoft/onnxruntime PR 18136) and onnxsim
(onnxsim issue 290) merge the two all the same: with the quickstart weights scores move by 1.5e-3 and boxes by half a
pixel at 320 pixels.

So a depthwise 1x1 convolution with kernel 1 makes the border: its zeros are its own, and ONNX Runtime keeps its blocked
layout, which a Pad leaves and enters again. Where nothing is negative the merge is harmless, and the border stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto


def guard_pools(proto: ModelProto) -> int:
    """Make the zero border of maps that may be negative by a convolution, wherever a max pooling reads it; in place.

    Returns: how many borders were replaced.
    """
    from onnx import helper, numpy_helper, shape_inference

    graph = proto.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    known = shape_inference.infer_shapes(proto).graph
    replaced = 0
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        pad = maker.get(pool.input[0])
        border = None if pad is None else _zero_border(pad, constants)
        if pad is None or border is None or _never_negative(maker.get(pad.input[0]), constants):
            continue
        channels, kind = _channels(known, pad.input[0])
        name = f"{pad.output[0]}.pooled_{replaced}"
        graph.initializer.append(numpy_helper.from_array(np.ones((channels, 1, 1, 1), kind), f"{name}.kernel"))
        twin = helper.make_node(
            "Conv", [pad.input[0], f"{name}.kernel"], [name], f"{name}.node",
            group=channels, kernel_shape=[1, 1], pads=border,
        )  # fmt: skip
        graph.node.insert(next(i for i, node in enumerate(graph.node) if node == pad) + 1, twin)
        pool.input[0] = name
        replaced += 1
    _drop_unread(graph)
    return replaced


def _zero_border(pad: NodeProto, constants: dict[str, NDArray[Any]]) -> list[int] | None:
    """Top, left, bottom and right of a Pad that puts zeros around maps; None for any other node."""
    if (
        pad.op_type != "Pad"
        or next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant") != b"constant"
    ):
        return None
    if len(pad.input) > 3 and pad.input[3]:  # axes of their own; torch writes none
        return None
    if len(pad.input) > 2 and pad.input[2] and (pad.input[2] not in constants or constants[pad.input[2]].any()):
        return None
    sides = [int(side) for side in constants[pad.input[1]]] if pad.input[1] in constants else []
    if len(sides) != 8 or min(sides) < 0 or any(sides[:2] + sides[4:6]):
        return None
    return [*sides[2:4], *sides[6:8]]


def _never_negative(node: NodeProto | None, constants: dict[str, NDArray[Any]]) -> bool:
    if node is None or node.op_type != "Clip":
        return node is not None and node.op_type == "Relu"
    low = constants.get(node.input[1]) if len(node.input) > 1 else None
    return low is not None and bool(low >= 0)


def _channels(graph: GraphProto, name: str) -> tuple[int, type[np.floating[Any]]]:
    """How many a (N, C, H, W) value has, and numpy's name of its type."""
    from .half import HALF

    for value in (*graph.input, *graph.value_info):
        tensor = value.type.tensor_type
        if value.name == name and len(tensor.shape.dim) == 4 and tensor.shape.dim[1].dim_value:
            return tensor.shape.dim[1].dim_value, np.float16 if tensor.elem_type == HALF else np.float32
    raise ValueError(f"how many channels {name} has is unknown: shapes could not be inferred")


def _drop_unread(graph: GraphProto) -> None:
    """Remove borders that only a pooling read."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Pad" and node.output[0] not in read]:
        graph.node.remove(node)
