# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs of a few nodes with the interfaces of real ones, made in a moment."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

Shape = list[Any]


def write_graph(
    path: Path,
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: tuple[str, ...],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A graph whose outputs are the means of its images, one number per image, and its sizes as ``boxes``.

    Args:
        path: file to write.
        inputs: type (``FLOAT``, ``INT64``) and shape by name; the first are the images.
        outputs: names.
        metadata: texts.
    """
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    images = next(iter(inputs))
    nodes = [helper.make_node("Cast", [images], ["floats"], to=kinds.FLOAT)]
    results = []
    for name in outputs:
        source, kind, node = "floats", kinds.FLOAT, "ReduceMean"
        if name == "boxes":
            source, kind, node = "orig_target_sizes", kinds.INT64, "Identity"
        further = {"axes": [1, 2, 3], "keepdims": 0} if node == "ReduceMean" else {}
        nodes.append(helper.make_node(node, [source], [name], **further))
        results.append(helper.make_tensor_value_info(name, kind, None))
    for number, name in enumerate(list(inputs)[1:]):  # what nobody reads would be left out of the session's inputs
        nodes.append(helper.make_node("Identity", [name], [f"unused {number}"]))
    given = [helper.make_tensor_value_info(name, getattr(kinds, kind), shape) for name, (kind, shape) in inputs.items()]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", given, results), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    if metadata:
        helper.set_model_props(proto, dict(metadata))
    onnx.save(proto, path)
    return path


def ours(path: Path, *, kind: str = "FLOAT", batch: Any = "N", size: tuple[Any, Any] = (32, 64)) -> Path:
    """With the interface and the metadata of isdfine export."""
    texts = {"isdfine_version": "0", "names": '["dark", "light"]', "ids": "[3, 7]", "precision": "fp16",
             "size": json.dumps([32, 64]), "resize": "squash"}  # fmt: skip
    inputs = {"images": (kind, [batch, 3, *size]), "orig_target_sizes": ("INT64", [batch, 2])}
    return write_graph(path, inputs, ("labels", "boxes", "scores"), texts)
