# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Half precision in the graph: what is half, what is not, and why."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from export_cases import Exported
from isdfine.core.errors import ConfigError
from isdfine.deploy.onnx.half import FLOAT, HALF, element_types, share, to_half

onnx = pytest.importorskip("onnx", reason="pip install onnx")


@pytest.fixture(scope="module")
def half(exported: Exported) -> Any:
    """The micro model in half precision, with the types of all values."""
    return onnx.shape_inference.infer_shapes(to_half(exported.graph()), check_type=True, strict_mode=True)


def kinds(proto: Any, op_type: str) -> Counter[int | None]:
    """Element types of the results of one operation."""
    types = element_types(proto.graph)
    return Counter(types.get(node.output[0]) for node in proto.graph.node if node.op_type == op_type)


def test_what_is_half_and_what_is_not(exported: Exported, half: Any) -> None:
    onnx.checker.check_model(half, full_check=True)
    for op_type in ("Conv", "MatMul", "Relu", "MaxPool", "Resize"):
        assert set(kinds(half, op_type)) == {HALF}, op_type
    for op_type in ("LayerNormalization", "GridSample", "ReduceSum", "Log"):
        assert set(kinds(half, op_type)) == {FLOAT}, op_type
    types = element_types(half.graph)
    chosen = [node.input[0] for node in half.graph.node if node.op_type == "TopK"]
    assert len(chosen) == 3  # queries, peaks of the distributions, detections
    assert {types[name] for name in chosen} == {FLOAT}
    values = [(value.name, value.type.tensor_type.elem_type) for value in (*half.graph.input, *half.graph.output)]
    assert values == [("images", 1), ("orig_target_sizes", 7), ("labels", 7), ("boxes", 1), ("scores", 1)]


def test_softmax_is_half_in_attention_only(half: Any) -> None:
    """Of three attentions; not over the bins of two layers and of the quality, nor over sampling points."""
    types = element_types(half.graph)
    for node in half.graph.node:
        if node.op_type == "Softmax":
            readers = {reader.op_type for reader in half.graph.node if node.output[0] in reader.input}
            assert (types[node.output[0]] == HALF) == (readers == {"MatMul"})
    assert kinds(half, "Softmax")[HALF] == 3
    assert kinds(half, "Softmax")[FLOAT] >= 5


def test_the_clamp_before_the_norm_survives(half: Any) -> None:
    constants = {initializer.name: onnx.numpy_helper.to_array(initializer) for initializer in half.graph.initializer}
    limits = [
        [constants[name] for name in node.input[1:]]
        for node in half.graph.node
        if node.op_type == "Clip" and node.output[0] in element_types(half.graph)
        if element_types(half.graph)[node.output[0]] == HALF
        if len(node.input) == 3  # the backbone's have a lower bound only
    ]
    wide = [pair for pair in limits if float(pair[1]) > 100]
    assert len(wide) == 2  # one per decoder layer
    for low, high in wide:
        assert (low.dtype, float(low), float(high)) == (np.float16, -65504, 65504)


def test_the_share_is_counted(exported: Exported, half: Any) -> None:
    before, after = share(exported.graph()), share(half)
    assert (before.half_nodes, before.half_weights) == (0, 0)
    assert after.nodes == before.nodes
    assert after.half_weights / after.weights > 0.99
    assert after.half_nodes / after.nodes > 0.5
    assert after.describe().startswith(f"{after.half_nodes} of {after.nodes} floating-point nodes (")


def test_the_graph_given_stays(exported: Exported) -> None:
    graph = exported.graph()
    before = graph.SerializeToString()
    to_half(graph)
    assert graph.SerializeToString() == before


def test_weights_beyond_half_are_refused(exported: Exported) -> None:
    graph = exported.graph()
    conv = next(node for node in graph.graph.node if node.op_type == "Conv")
    weight = next(initializer for initializer in graph.graph.initializer if initializer.name == conv.input[1])
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = 1e5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ConfigError, match="holds values beyond 65504, which float16 cannot: export with"):
        to_half(graph)


def small(nodes: list[Any], constants: dict[str, Any]) -> Any:
    """A graph from x (1, 4) to y."""
    values = [onnx.helper.make_tensor_value_info(name, 1, [1, 4]) for name in ("x", "y")]
    given = [onnx.numpy_helper.from_array(np.array(constant, np.float32), name) for name, constant in constants.items()]
    graph = onnx.helper.make_graph(nodes, "small", values[:1], values[1:], given)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


def test_an_epsilon_that_half_would_lose_keeps_its_node_exact() -> None:
    make = onnx.helper.make_node
    nodes = [make("MatMul", ["x", "w"], ["a"]), make("Add", ["a", "eps"], ["b"]), make("Relu", ["b"], ["c"]),
             make("MatMul", ["c", "w"], ["y"])]  # fmt: skip
    proto = to_half(small(nodes, {"w": np.eye(4), "eps": [1e-6]}))
    kinds_in_order = [node.op_type for node in proto.graph.node]
    assert kinds_in_order == ["Cast", "MatMul", "Cast", "Add", "Relu", "MatMul"]
    onnx.checker.check_model(proto, full_check=True)
