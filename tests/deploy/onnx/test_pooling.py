# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A zero border before a max pooling must not become the pooling's own border, which is minus infinity."""

from typing import Any

import numpy as np
import pytest

from export_cases import Exported
from isdfine.deploy.onnx.half import to_half
from isdfine.deploy.onnx.pooling import ALMOST_ZERO, guard_pools

onnx = pytest.importorskip("onnx", reason="pip install onnx")
runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")


def padded_pool(value: float | None) -> Any:
    shapes = {"x": [1, 1, 2, 2], "y": [1, 1, 2, 2]}
    values = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]
    constants = [onnx.numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64), "pads")]
    if value is not None:
        constants.append(onnx.numpy_helper.from_array(np.array(value, np.float32), "value"))
    nodes = [
        onnx.helper.make_node("Pad", ["x", "pads"] + ([] if value is None else ["value"]), ["p"], "pad"),
        onnx.helper.make_node("MaxPool", ["p"], ["y"], "pool", kernel_shape=[2, 2]),
    ]
    graph = onnx.helper.make_graph(nodes, "pool", values[:1], values[1:], constants)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    proto.ir_version = 10
    return proto


@pytest.mark.parametrize("value", [0.0, None])
def test_negative_maps_keep_their_zero_border(value: float | None) -> None:
    proto = padded_pool(value)
    assert guard_pools(proto) == 1
    onnx.checker.check_model(proto, full_check=True)
    session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, 1, 2, 2), -1, np.float32)})
    assert np.allclose(found, [[[[-1, 0], [0, 0]]]], atol=1e-7)
    assert [node.op_type for node in proto.graph.node] == ["Pad", "MaxPool"]  # the old border is gone
    assert guard_pools(proto) == 0


def test_other_borders_stay() -> None:
    proto = padded_pool(-1.0)
    assert guard_pools(proto) == 0
    proto = padded_pool(None)
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("mode", "edge"))
    assert guard_pools(proto) == 0


def test_exports_are_guarded(exported: Exported) -> None:
    def borders(proto: Any) -> list[Any]:
        pads = {node.output[0]: node for node in proto.graph.node if node.op_type == "Pad"}
        constants = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
        pools = [node for node in proto.graph.node if node.op_type == "MaxPool"]
        return [constants[pads[pool.input[0]].input[2]] for pool in pools]

    (value,) = borders(exported.graph())
    assert (value.dtype, float(value)) == (np.float32, ALMOST_ZERO)
    assert np.float16(ALMOST_ZERO) > 0
    half = to_half(padded_half())
    assert guard_pools(half) == 1
    assert borders(half)[0].dtype == np.float16


def padded_half() -> Any:
    """A convolution before the border, so that the border is in half precision."""
    proto = padded_pool(0.0)
    weight = onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    proto.graph.initializer.append(weight)
    proto.graph.node.insert(0, onnx.helper.make_node("Conv", ["x", "w"], ["c"], "conv"))
    proto.graph.node[1].input[0] = "c"
    proto.graph.node[2].output[0] = "pooled"
    proto.graph.node.append(onnx.helper.make_node("Conv", ["pooled", "w"], ["y"], "last"))
    return proto
