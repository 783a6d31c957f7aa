# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A graph with the interface of ours that is made in a moment."""

from pathlib import Path

import numpy as np
import pytest


def constant_graph(
    path: Path, *, batch: int | str = "N", kind: str = "FLOAT", io: tuple[str, ...] = (), **metadata: str
) -> Path:
    """A graph that says the mean of the pixels as score, the whole image as box; ``kind`` is the type of the images."""
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    images, sizes, labels, boxes, scores = io or ("images", "orig_target_sizes", "labels", "boxes", "scores")
    nodes = [
        helper.make_node("Cast", [images], ["floats"], to=kinds.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], [scores]),
        helper.make_node("Cast", [sizes], ["wh"], to=kinds.FLOAT),
        helper.make_node("Sub", ["wh", "wh"], ["zero"]),
        helper.make_node("Concat", ["zero", "wh"], ["flat"], axis=1),
        helper.make_node("Unsqueeze", ["flat", "one"], [boxes]),
        helper.make_node("Cast", [scores], ["none"], to=kinds.INT64),
        helper.make_node("Sub", ["none", "none"], [labels]),
    ]
    values = [
        helper.make_tensor("axes", kinds.INT64, [3], [1, 2, 3]),
        helper.make_tensor("one", kinds.INT64, [1], [1]),
    ]
    graph = helper.make_graph(
        nodes, "constant",
        [
            helper.make_tensor_value_info(images, getattr(kinds, kind), [batch, 3, 32, 64]),
            helper.make_tensor_value_info(sizes, kinds.INT64, [batch, 2]),
        ],
        [
            helper.make_tensor_value_info(labels, kinds.INT64, [batch, 1]),
            helper.make_tensor_value_info(boxes, kinds.FLOAT, [batch, 1, 4]),
            helper.make_tensor_value_info(scores, kinds.FLOAT, [batch, 1]),
        ],
        values,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


OURS = {"isdfine_version": "0", "names": '["dark", "light"]', "ids": "[3, 7]", "size": "[32, 64]", "resize": "squash"}
GREY = np.full((10, 20, 3), 102, np.uint8)
