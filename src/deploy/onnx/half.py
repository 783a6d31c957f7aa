# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Half precision written into a graph: weights and heavy operations in float16, fragile ones in float32, with casts.

Nothing is left to the runtime, so that strongly typed TensorRT and ONNX Runtime compute the same. What stays in float32
follows from the structure of the graph, not from names:

- layer and other norms, sampling (``GridSample``), top-k, reductions, exponentials, trigonometry;
- everything between the last weights and an output, a top-k or a sampling location: distributions and their
  expectation, reference boxes, sigmoid and inverse sigmoid, box decoding, scores;
- what meets a float32 operand and carries no weights, as in type promotion.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import ConfigError
from ...core.extras import need

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

FLOAT, HALF = 1, 10
"""Element types of ONNX."""
HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
NORMS = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"})
FRAGILE = NORMS | {
    *("GridSample", "TopK", "Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Sin", "Cos", "Range"),
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd", "CumSum", "GlobalAveragePool"),
    *("AveragePool",),
}
_SLICED_FROM = {"GridSample": 1, "TopK": 0}
"""Operations whose input of that number is computed in float32 back to the last weights."""
_LARGEST, _SMALLEST = 65504.0, 6.2e-5
"""Finite normal numbers of float16."""


@dataclass(frozen=True)
class HalfShare:
    """How much of a graph is in half precision."""

    nodes: int
    """Nodes that compute with floating-point numbers; casts are not counted."""
    half_nodes: int
    weights: int
    """Floating-point numbers among the initialisers."""
    half_weights: int

    def describe(self) -> str:
        """One line for people."""
        nodes, weights = self.half_nodes / max(1, self.nodes), self.half_weights / max(1, self.weights)
        return (
            f"{self.half_nodes} of {self.nodes} floating-point nodes ({nodes:.0%}) and {weights:.1%} of "
            f"{self.weights / 1e6:.2f} M weights in float16"
        )


def to_half(proto: ModelProto) -> ModelProto:
    """A float32 graph as a mixed one; inputs and outputs keep their types.

    Args:
        proto: one flat graph of standard operations with all initialisers inside.

    Raises:
        ConfigError: weights that float16 cannot hold.
    """
    onnx = need("onnx", "export")
    mixed: ModelProto = type(proto)()
    mixed.CopyFrom(proto)
    _Conversion(onnx.shape_inference.infer_shapes(mixed).graph, _opset(proto)).write(mixed)
    return mixed


def share(proto: ModelProto) -> HalfShare:
    """Count what is half; types come from shape inference."""
    onnx = need("onnx", "export")
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = element_types(graph)
    counted = [types.get(node.output[0]) for node in graph.node if node.op_type not in ("Cast", "Constant")]
    sizes = [
        (int(np.prod(tensor.dims)), tensor.data_type)
        for tensor in graph.initializer
        if tensor.data_type in (FLOAT, HALF)
    ]
    return HalfShare(
        sum(kind in (FLOAT, HALF) for kind in counted),
        sum(kind == HALF for kind in counted),
        sum(size for size, _ in sizes),
        sum(size for size, kind in sizes if kind == HALF),
    )


def misplaced(proto: ModelProto) -> list[str]:
    """Kinds of operations that compute in float16 and must not, by the rule of this module; ``TopK (2)``."""
    onnx = need("onnx", "export")
    graph = _Graph(onnx.shape_inference.infer_shapes(proto).graph)
    wrong = [
        node.op_type
        for node in graph.nodes
        if node.op_type != "Cast" and any(graph.types.get(name) == HALF for name in node.output)
        if id(node) in graph.exact
        or (node.op_type in FRAGILE and not (node.op_type == "Softmax" and graph.feeds_matmul(node)))
    ]
    return [f"{kind} ({count})" for kind, count in sorted(Counter(wrong).items())]


def element_types(graph: GraphProto) -> dict[str, int]:
    """Element type of every value of an inferred graph whose type is known."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for values in (graph.value_info, graph.input, graph.output):
        types |= {value.name: value.type.tensor_type.elem_type for value in values}
    return types


class _Graph:
    """A graph with the types of its values, and what of it must be exact."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes = list(graph.node)
        self.types = element_types(graph)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.outputs = {value.name for value in graph.output}
        self.exact = self._sliced()

    def is_float(self, name: str) -> bool:
        """Whether a value is of either precision."""
        return self.types.get(name) in (FLOAT, HALF)

    def _sliced(self) -> set[int]:
        """Nodes (by id) between the last weights and what must be exact."""
        pending = [name for name in self.outputs if self.is_float(name)]
        pending += [node.input[_SLICED_FROM[node.op_type]] for node in self.nodes if node.op_type in _SLICED_FROM]
        exact: set[int] = set()
        while pending:
            node = self.maker.get(pending.pop())
            if node is None or id(node) in exact or node.op_type in HEAVY | NORMS or self.is_bias(node):
                continue
            exact.add(id(node))
            pending += [name for name in node.input if self.is_float(name)]
        return exact

    def is_bias(self, node: NodeProto) -> bool:
        """Adds a bias to a product with weights: the two are one layer."""
        if node.op_type != "Add":
            return False
        products = [name for name in node.input if name in self.maker and self.maker[name].op_type == "MatMul"]
        biases = [name for name in node.input if name in self.constants and len(self.constants[name].dims) <= 1]
        return len(products) == len(biases) == 1 and any(
            name in self.constants for name in self.maker[products[0]].input
        )

    def feeds_matmul(self, node: NodeProto) -> bool:
        """Whether nothing but products reads the result."""
        readers = [reader for reader in self.nodes if node.output[0] in reader.input]
        return bool(readers) and all(reader.op_type == "MatMul" for reader in readers)


class _Conversion(_Graph):
    """The decision for every node, then the rewriting."""

    def __init__(self, graph: GraphProto, opset: int) -> None:
        super().__init__(graph)
        self.opset = opset
        self.half: set[str] = set()
        """Values that are float16 after the rewriting, initialisers apart."""
        self.rounded: set[str] = set()
        """Values that are computed in float32 and read in float16 wherever that is possible: those of norms."""
        for node in self.nodes:
            if node.op_type in NORMS:
                self.rounded |= set(node.output)
            elif self._is_half(node):
                self.half |= {name for name in node.output if self.types.get(name) == FLOAT}

    def _is_half(self, node: NodeProto) -> bool:
        if id(node) in self.exact or not any(self.types.get(name) == FLOAT for name in node.output):
            return False
        if self.outputs.intersection(node.output):
            return False
        floats = [name for name, typed in self._inputs(node) if typed and self.types.get(name) == FLOAT]
        constants = {name: _magnitudes(self.constants[name]) for name in floats if name in self.constants}
        if node.op_type in HEAVY:
            if large := [name for name, values in constants.items() if values.max(initial=0) > _LARGEST]:
                raise ConfigError(
                    f"{large[0]} holds values beyond {_LARGEST:.0f}, which float16 cannot: export with --precision fp32"
                )
            return True
        if not all(map(_fits, constants.values())):
            return False
        if self.is_bias(node):
            return True
        if node.op_type == "Softmax":  # of attention: its operands are products in float16
            return node.input[0] in self.half and self.feeds_matmul(node)
        computed = set(floats) - set(constants)
        return node.op_type not in FRAGILE and bool(computed) and computed <= self.half | self.rounded

    def _inputs(self, node: NodeProto) -> list[tuple[str, bool]]:
        """Inputs, and whether they have the type of the result; further floats of some operations stay float32."""
        return list(zip(node.input, _typed_inputs(node.op_type, self.opset, len(node.input))))

    def write(self, mixed: ModelProto) -> None:
        """Put casts between the precisions, halve initialisers that only half nodes read, retype values."""
        from onnx import helper, numpy_helper

        casts: dict[tuple[str, int], str] = {}
        nodes: list[NodeProto] = []
        halved: dict[str, str] = {}
        for node in self.nodes:
            wants = HALF if any(name in self.half for name in node.output) else FLOAT
            for position, (name, typed) in enumerate(self._inputs(node)):
                needed = wants if typed else FLOAT
                if self.types.get(name) != FLOAT or node.op_type == "Cast":
                    continue
                if needed == (HALF if name in self.half else FLOAT):
                    continue
                if name in self.constants:
                    halved[name] = f"{name}.half"
                    node.input[position] = halved[name]
                    continue
                if (name, needed) not in casts:
                    casts[name, needed] = f"{name}.{'half' if needed == HALF else 'float'}"
                    nodes.append(
                        helper.make_node("Cast", [name], [casts[name, needed]], f"cast_{len(casts)}", to=needed)
                    )
                node.input[position] = casts[name, needed]
            nodes.append(node)
        graph = mixed.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        for name, new in halved.items():
            values = numpy_helper.to_array(self.constants[name])
            kept.append(numpy_helper.from_array(values.astype(np.float16), new))
        del graph.initializer[:]
        graph.initializer.extend(kept)


@cache
def _typed_inputs(op_type: str, opset: int, count: int) -> tuple[bool, ...]:
    """Which of ``count`` inputs have the type of the first output, by the standard's schema."""
    from onnx import defs

    schema = defs.get_schema(op_type, opset)
    kind = schema.outputs[0].type_str
    inputs = [parameter.type_str for parameter in schema.inputs]
    inputs += inputs[-1:] * (count - len(inputs))  # the last one may be variadic
    return tuple(allowed == kind for allowed in inputs[:count])


def _magnitudes(tensor: TensorProto) -> NDArray[Any]:
    """Absolute values of the finite numbers."""
    from onnx import numpy_helper

    values = np.abs(numpy_helper.to_array(tensor))
    finite: NDArray[Any] = values[np.isfinite(values)]
    return finite


def _fits(values: NDArray[Any]) -> bool:
    """Whether float16 holds every magnitude; of tables only the range counts, of a few numbers also tiny ones (eps)."""
    if values.max(initial=0) > _LARGEST:
        return False
    tiny = values[(values > 0) & (values < _SMALLEST)]
    return values.size > 8 or bool((tiny.astype(np.float16) == tiny).all())


def _opset(proto: ModelProto) -> int:
    return int(next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")))
