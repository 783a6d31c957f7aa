# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A zero border before a max pooling must not become the pooling's own border, which is minus infinity."""

from typing import Any

import numpy as np
import pytest

from export_cases import Exported
from isdfine.deploy.onnx.half import to_half
from isdfine.deploy.onnx.pooling import guard_pools

onnx = pytest.importorskip("onnx", reason="pip install onnx")
runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")


def padded_pool(value: float | None, *, before: str = "", border: tuple[int, int, int, int] = (0, 0, 1, 1)) -> Any:
    """Two channels of 2 x 2, ``before`` (an operation and its constants), a border, a 2 x 2 pooling."""
    top, left, bottom, right = border
    shapes = {"x": [1, 2, 2, 2], "y": [1, 2, 1 + top + bottom, 1 + left + right]}
    values = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]
    sides = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    constants = [onnx.numpy_helper.from_array(sides, "sides")]
    if value is not None:
        constants.append(onnx.numpy_helper.from_array(np.array(value, np.float32), "value"))
    operation, *numbers = before.split() or ["Identity"]
    for number in numbers:
        constants.append(onnx.numpy_helper.from_array(np.array(float(number), np.float32), number))
    nodes = [
        onnx.helper.make_node(operation, ["x", *numbers], ["b"], "before"),
        onnx.helper.make_node("Pad", ["b", "sides"] + ([] if value is None else ["value"]), ["p"], "pad"),
        onnx.helper.make_node("MaxPool", ["p"], ["y"], "pool", kernel_shape=[2, 2]),
    ]
    graph = onnx.helper.make_graph(nodes, "pool", values[:1], values[1:], constants)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    proto.ir_version = 10
    return proto


def operations(proto: Any) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def answer(proto: Any, maps: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": maps})[0]
    return found


@pytest.mark.parametrize("value", [0.0, None])
@pytest.mark.parametrize("before", ["Identity", "Clip -3"])
def test_negative_maps_keep_their_zero_border(value: float | None, before: str) -> None:
    proto = padded_pool(value, before=before)
    assert guard_pools(proto) == 1
    onnx.checker.check_model(proto, full_check=True)
    found = answer(proto, np.stack([np.full((2, 2), -1, np.float32), np.full((2, 2), -2, np.float32)])[None])
    assert found.tolist() == [[[[-1, 0], [0, 0]], [[-2, 0], [0, 0]]]]
    assert operations(proto) == [before.split()[0], "Conv", "MaxPool"]  # the old border is gone
    assert guard_pools(proto) == 0


def test_every_side_of_the_border_is_kept() -> None:
    proto = padded_pool(0.0, border=(1, 0, 0, 2))
    assert guard_pools(proto) == 1
    onnx.checker.check_model(proto, full_check=True)
    assert answer(proto, np.full((1, 2, 2, 2), -1, np.float32))[0, 0].tolist() == [[0, 0, 0], [-1, 0, 0]]


@pytest.mark.parametrize(("before", "expected"), [("Relu", 0), ("Clip 0", 0), ("Clip 0.5", 0.5)])
def test_maps_that_are_never_negative_keep_their_pad(before: str, expected: float) -> None:
    proto = padded_pool(0.0, before=before)
    assert guard_pools(proto) == 0
    assert operations(proto)[1:] == ["Pad", "MaxPool"]
    found = answer(proto, np.full((1, 2, 2, 2), -1, np.float32))
    assert np.all(found == expected)  # whether it was merged or not


def test_other_borders_stay() -> None:
    proto = padded_pool(-1.0)
    assert guard_pools(proto) == 0
    proto = padded_pool(None)
    proto.graph.node[1].attribute.append(onnx.helper.make_attribute("mode", "edge"))
    assert guard_pools(proto) == 0


def test_a_border_that_others_read_stays_for_them() -> None:
    proto = padded_pool(0.0)
    proto.graph.node.append(onnx.helper.make_node("Neg", ["p"], ["z"], "neg"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, [1, 2, 3, 3]))
    assert guard_pools(proto) == 1
    onnx.checker.check_model(proto, full_check=True)
    assert sorted(operations(proto)) == ["Conv", "Identity", "MaxPool", "Neg", "Pad"]


def test_channels_must_be_known() -> None:
    proto = padded_pool(0.0)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[1].dim_param = "C"
    with pytest.raises(ValueError, match="how many channels b has is unknown"):
        guard_pools(proto)


def test_exports_are_guarded(exported: Exported) -> None:
    graph = exported.graph().graph
    makers = {node.output[0]: node for node in graph.node}
    kernels = {initializer.name: onnx.numpy_helper.to_array(initializer) for initializer in graph.initializer}
    (pool,) = [node for node in graph.node if node.op_type == "MaxPool"]
    kernel = kernels[makers[pool.input[0]].input[1]]
    assert makers[pool.input[0]].op_type == "Conv"
    assert (kernel.shape[1:], kernel.dtype, kernel.min(), kernel.max()) == ((1, 1, 1), np.float32, 1, 1)


def test_a_border_in_half_precision_gets_a_half_kernel() -> None:
    half = to_half(padded_half())
    assert guard_pools(half) == 1
    onnx.checker.check_model(half, full_check=True)
    (kernel,) = [initializer for initializer in half.graph.initializer if initializer.name.endswith(".kernel")]
    assert onnx.numpy_helper.to_array(kernel).dtype == np.float16


def padded_half() -> Any:
    """A convolution before the border, so that the border is in half precision."""
    proto = padded_pool(0.0)
    weight = onnx.numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")
    proto.graph.initializer.append(weight)
    del proto.graph.node[0]
    proto.graph.node.insert(0, onnx.helper.make_node("Conv", ["x", "w"], ["b"], "conv"))
    proto.graph.node[2].output[0] = "pooled"
    proto.graph.node.append(onnx.helper.make_node("Conv", ["pooled", "w"], ["y"], "last"))
    return proto
