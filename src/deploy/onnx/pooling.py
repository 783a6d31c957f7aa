# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Keep runtimes from merging a zero border into a max pooling.

HGNetv2's stem pads with zeros after a learned affine, whose results may be negative, and pools then. A pooling's own
border counts as minus infinity. ONNX Runtime up to 1.31 (Pad_Fusion, microsoft/onnxruntime PR 18136) and onnxsim
(onnxsim issue 290) merge the two all the same: with the quickstart weights scores move by 1.5e-3 and boxes by half a
pixel at 320 pixels. A border that is not exactly zero is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ALMOST_ZERO = 2.0**-24
"""The smallest positive number of float16; far below the rounding of what lies beside it."""


def guard_pools(proto: ModelProto) -> int:
    """Give every max pooling behind a zero border a border of its own that is not exactly zero, in place.

    Returns: how many there were.
    """
    from onnx import numpy_helper

    graph = proto.graph
    maker = {name: node for node in graph.node for name in node.output}
    constants = {one.name: one for one in graph.initializer}
    guarded = 0
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        pad = maker.get(pool.input[0])
        if pad is None or pad.op_type != "Pad" or not _is_zero(pad, constants):
            continue
        name = f"{pad.output[0]}.pooled_{guarded}"
        kind = np.float16 if _is_half(proto, pad.input[0]) else np.float32
        graph.initializer.append(numpy_helper.from_array(np.array(ALMOST_ZERO, kind), f"{name}.value"))
        position = next(i for i, node in enumerate(graph.node) if node is pad or node.name == pad.name)
        twin = _twin(pad, name)
        graph.node.insert(position + 1, twin)
        pool.input[0] = name
        guarded += 1
    _drop_unread(proto)
    return guarded


def _twin(pad: NodeProto, name: str) -> NodeProto:
    twin = type(pad)()
    twin.CopyFrom(pad)
    twin.name, twin.output[0] = f"{name}.node", name
    del twin.input[2:3]
    twin.input.insert(2, f"{name}.value")
    return twin


def _is_zero(pad: NodeProto, constants: dict[str, object]) -> bool:
    from onnx import numpy_helper

    mode = next((one.s for one in pad.attribute if one.name == "mode"), b"constant")
    if mode != b"constant":
        return False
    if len(pad.input) < 3 or not pad.input[2]:
        return True
    value = constants.get(pad.input[2])
    return value is not None and not numpy_helper.to_array(value).any()  # type: ignore[arg-type]


def _is_half(proto: ModelProto, name: str) -> bool:
    from onnx import shape_inference

    from .half import HALF, element_types

    return element_types(shape_inference.infer_shapes(proto).graph).get(name) == HALF


def _drop_unread(proto: ModelProto) -> None:
    """Remove borders that only the pooling read."""
    graph = proto.graph
    read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    for node in [one for one in graph.node if one.op_type == "Pad" and one.output[0] not in read]:
        graph.node.remove(node)
