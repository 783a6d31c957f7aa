# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Planted faults: each is refused, by its name."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export_cases import IMAGES, Exported
from isdfine.core.errors import CheckpointError, DataError
from isdfine.deploy.onnx.half import to_half
from isdfine.deploy.onnx.sample import draw_sample, images_in
from isdfine.deploy.onnx.structure import ExportError, read_graph, structure_problems
from isdfine.deploy.onnx.verify import verify
from isdfine.deploy.preprocess import Recipe

onnx = pytest.importorskip("onnx", reason="pip install onnx")
Save = Callable[[Any], Path]


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, [output], f"planted_{output}", **attributes)


def constant(graph: Any, name: str, value: Any, dtype: type = np.float32) -> str:
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, dtype), name))
    return name


def rename_output(graph: Any, old: str, new: str) -> None:
    """The node that makes an output makes ``new`` instead, so that something can be put between."""
    maker = next(maker for maker in graph.node if old in maker.output)
    maker.output[list(maker.output).index(old)] = new


def split_layer_norms(proto: Any) -> int:
    """Write layer norm as opset 16 does."""
    graph, count = proto.graph, 0
    constant(graph, "two", 2.0)
    constant(graph, "last", [-1], np.int64)
    for norm in [layer for layer in graph.node if layer.op_type == "LayerNormalization"]:
        x, weight, bias, out, at = *norm.input, norm.output[0], list(graph.node).index(norm)
        name = f"split{count}"
        eps = constant(graph, f"{name}_eps", next(a.f for a in norm.attribute if a.name == "epsilon"))
        parts = [
            node("ReduceMean", [x, "last"], f"{name}_mean", keepdims=1),
            node("Sub", [x, f"{name}_mean"], f"{name}_distance"),
            node("Pow", [f"{name}_distance", "two"], f"{name}_square"),
            node("ReduceMean", [f"{name}_square", "last"], f"{name}_variance", keepdims=1),
            node("Add", [f"{name}_variance", eps], f"{name}_safe"),
            node("Sqrt", [f"{name}_safe"], f"{name}_deviation"),
            node("Div", [f"{name}_distance", f"{name}_deviation"], f"{name}_normal"),
            node("Mul", [f"{name}_normal", weight], f"{name}_scaled"),
            node("Add", [f"{name}_scaled", bias], out),
        ]
        graph.node.remove(norm)
        for offset, part in enumerate(parts):
            graph.node.insert(at + offset, part)
        count += 1
    return count


def test_the_file_itself_passes(exported: Exported) -> None:
    found = verify(exported.report.path, [exported.sample], precision="fp32")
    assert max(difference.score for difference in found.values()) < 1e-4
    assert verify(exported.report.path) == {}  # structure alone


def test_split_layer_norm(exported: Exported, save: Save) -> None:
    proto = exported.graph()
    count = split_layer_norms(proto)
    assert count == exported.sample.layer_norms == 9
    with pytest.raises(ExportError, match=r"layer norm is split into parts that overflow in fp16 \(9 times; 0 Layer"):
        verify(save(proto), [exported.sample])
    with pytest.raises(ExportError, match="layer norm is split"):  # also of a file of unknown origin
        verify(save(proto))
    old = exported.graph()
    old.opset_import[0].version = 16
    assert "opset 16 has no LayerNormalization: export with opset 17 or newer" in structure_problems(old)


def test_layer_norms_that_vanished(exported: Exported, save: Save) -> None:
    more = replace(exported.sample, layer_norms=11)
    with pytest.raises(ExportError, match="9 LayerNormalization for 11 layer norms of the model"):
        verify(exported.report.path, [more])


def test_a_batch_baked_into_the_inputs(exported: Exported, save: Save) -> None:
    proto = exported.graph()
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(ExportError, match="images: the batch is baked in as 2; orig_target_sizes: the batch is baked"):
        verify(save(proto), [exported.sample])


def test_a_batch_baked_into_a_constant(exported: Exported, save: Save) -> None:
    proto = exported.graph()
    rename_output(proto.graph, "scores", "any_scores")
    shape = constant(proto.graph, "shape", [1, 10], np.int64)
    proto.graph.node.append(node("Reshape", ["any_scores", shape], "scores"))
    with pytest.raises(ExportError, match=r"disagree: batch 3 of 64 x 64: it does not run .*batch 8 of 64 x 64: it"):
        verify(save(proto), [exported.sample])


def test_a_box_scaled_by_a_hundredth(exported: Exported, save: Save) -> None:
    proto = exported.graph()
    rename_output(proto.graph, "boxes", "true_boxes")
    proto.graph.node.append(node("Mul", ["true_boxes", constant(proto.graph, "f", 1.01)], "boxes"))
    with pytest.raises(ExportError, match=r"batch 1 of 64 x 64: boxes: off by .* px, 0\.05 px is allowed"):
        verify(save(proto), [exported.sample])


def test_a_score_moved_and_a_label_changed(exported: Exported, save: Save) -> None:
    proto = exported.graph()
    rename_output(proto.graph, "scores", "true_scores")
    proto.graph.node.append(node("Add", ["true_scores", constant(proto.graph, "f", 2e-4)], "scores"))
    rename_output(proto.graph, "labels", "true_labels")
    one = constant(proto.graph, "one", 1, np.int64)
    proto.graph.node.append(node("Sub", [one, "true_labels"], "labels"))
    with pytest.raises(ExportError, match=r"batch 1 of 64 x 64: labels: .* have no partner of their class"):
        verify(save(proto), [exported.sample])


def test_classes_in_another_order(exported: Exported, save: Save) -> None:
    """A head whose rows are swapped: every label of two classes is the other one."""
    proto = exported.graph()
    rename_output(proto.graph, "labels", "true_labels")
    proto.graph.node.append(node("Gather", [constant(proto.graph, "order", [1, 0], np.int64), "true_labels"], "labels"))
    with pytest.raises(ExportError, match=r"batch 8 of 64 x 64: labels: .* have no partner of their class"):
        verify(save(proto), [exported.sample])


def test_labels_off_by_one(exported: Exported, save: Save) -> None:
    proto = exported.graph()
    rename_output(proto.graph, "labels", "true_labels")
    proto.graph.node.append(node("Add", [constant(proto.graph, "one", 1, np.int64), "true_labels"], "labels"))
    with pytest.raises(ExportError, match=r"batch 1 of 64 x 64: labels: .* have no partner of their class"):
        verify(save(proto), [exported.sample])


def test_scores_without_sigmoid(exported: Exported, save: Save) -> None:
    proto = exported.graph()
    rename_output(proto.graph, "scores", "p")
    ones = constant(proto.graph, "one", 1.0)
    proto.graph.node.extend(
        [node("Sub", [ones, "p"], "q"), node("Div", ["p", "q"], "odds"), node("Log", ["odds"], "scores")]
    )
    with pytest.raises(ExportError, match=r"batch 1 of 64 x 64: scores: off by .*, 0\.0001 is allowed"):
        verify(save(proto), [exported.sample])


def test_every_image_gets_the_results_of_the_first(exported: Exported, save: Save) -> None:
    """Right at batch 1; found because no image comes twice."""
    proto = exported.graph()
    none = constant(proto.graph, "first", [0], np.int64)
    for name in ("labels", "boxes", "scores"):
        rename_output(proto.graph, name, f"true_{name}")
        proto.graph.node.append(node("Gather", [f"true_{name}", none], f"first_{name}", axis=0))
        proto.graph.node.append(node("Shape", [f"true_{name}"], f"shape_{name}"))
        proto.graph.node.append(node("Expand", [f"first_{name}", f"shape_{name}"], name))
    with pytest.raises(ExportError, match=r"disagree: batch 3 of 64 x 64: .* is allowed"):
        verify(save(proto), [exported.sample])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_weight_that_is_no_number(exported: Exported, save: Save, precision: str) -> None:
    proto = exported.graph() if precision == "fp32" else to_half(exported.graph())
    next(prop for prop in proto.metadata_props if prop.key == "precision").value = precision
    conv = next(layer for layer in proto.graph.node if layer.op_type == "Conv")
    weight = next(initializer for initializer in proto.graph.initializer if initializer.name == conv.input[1])
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=r"ONNX Runtime and PyTorch disagree: batch 1 of 64 x 64: .*nan"):
        verify(save(proto), [exported.sample])


def test_a_model_with_a_weight_that_is_no_number(exported: Exported) -> None:
    """The graph would agree with it: NaN equals NaN nowhere, so nothing could be compared."""
    model = copy.deepcopy(exported.model)
    next(model.parameters()).data.view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match="PyTorch itself finds boxes or scores that are not finite"):
        draw_sample(model, exported.postprocessor, images_in(IMAGES)[:2], Recipe.squash((64, 64)))


def half_top_k(proto: Any) -> None:
    """Select the best queries in float16."""
    graph = proto.graph
    top = next(layer for layer in graph.node if layer.op_type == "TopK")
    values = top.output[0]
    graph.node.insert(list(graph.node).index(top), node("Cast", [top.input[0]], "half_scores", to=10))
    top.input[0], top.output[0] = "half_scores", "half_values"
    graph.node.insert(list(graph.node).index(top) + 1, node("Cast", ["half_values"], values, to=1))
    del graph.value_info[:]


def half_boxes(proto: Any) -> None:
    """Multiply boxes with the size of the image in float16: steps of half a pixel beyond 512."""
    rename_output(proto.graph, "boxes", "true_boxes")
    proto.graph.node.append(node("Cast", ["true_boxes"], "half_boxes", to=10))
    proto.graph.node.append(node("Add", ["half_boxes", constant(proto.graph, "nothing", 0, np.float16)], "sum"))
    proto.graph.node.append(node("Cast", ["sum"], "boxes", to=1))


@pytest.mark.parametrize(("plant", "kind"), [(half_top_k, r"TopK \(1\)"), (half_boxes, r"Add \(1\)")])
def test_fragile_operations_in_half(exported: Exported, save: Save, plant: Callable[[Any], None], kind: str) -> None:
    """What no comparison on a CPU need show."""
    proto = to_half(exported.graph())
    next(prop for prop in proto.metadata_props if prop.key == "precision").value = "fp16"
    assert verify(save(proto)) == {}
    plant(proto)
    with pytest.raises(ExportError, match=f"called fp16, but these compute in float16 and must not: {kind}; export"):
        verify(save(proto))


def test_results_of_another_shape(exported: Exported, save: Save) -> None:
    proto = exported.graph()
    rename_output(proto.graph, "labels", "true_labels")
    limits = [constant(proto.graph, name, [at], np.int64) for name, at in (("from", 0), ("to", 4), ("axis", 1))]
    proto.graph.node.append(node("Slice", ["true_labels", *limits], "labels"))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    with pytest.raises(ExportError, match="results of shape"):
        verify(save(proto), [exported.sample])


def test_precisions_that_are_not_there(exported: Exported, save: Save) -> None:
    with pytest.raises(ExportError, match=r"called fp16, but 0% of the weights .* are in float16, expected 90%"):
        verify(exported.report.path, [exported.sample], precision="fp16")
    renamed = exported.graph()
    next(prop for prop in renamed.metadata_props if prop.key == "precision").value = "fp16"
    with pytest.raises(ExportError, match="called fp16"):  # the file's own claim
        verify(save(renamed))
    half = to_half(exported.graph())
    with pytest.raises(ExportError, match=r"called fp32, but .* floating-point nodes .* in float16"):
        verify(save(half), precision="fp32")
    next(prop for prop in renamed.metadata_props if prop.key == "precision").value = "bf16"
    with pytest.raises(ExportError, match="its precision is 'bf16': known are fp32, fp16"):
        verify(save(renamed))


def test_operations_that_do_not_belong(exported: Exported) -> None:
    proto = exported.graph()
    proto.graph.node[3].domain = "com.microsoft"
    kind = proto.graph.node[3].op_type
    assert structure_problems(proto) == [f"operations outside the ONNX standard: com.microsoft.{kind}"]
    proto = exported.graph()
    proto.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"]))
    proto.functions.append(onnx.FunctionProto(name="own"))
    assert structure_problems(proto) == [
        "1 functions of its own instead of one flat graph",
        "control flow (If), which runtimes cannot fuse",
    ]


def test_interfaces_that_do_not_fit(exported: Exported) -> None:
    proto = exported.graph()
    proto.graph.input[1].type.tensor_type.elem_type = 1
    proto.graph.output[2].type.tensor_type.shape.dim[0].dim_param = "other"
    del proto.graph.output[1].type.tensor_type.shape.dim[2]
    assert set(structure_problems(proto, dynamic_size=True)) == {
        "orig_target_sizes has element type 1, expected 7",
        "images: height and width are 64 x 64, asked for free ones",
        "boxes has 2 dimensions, expected 3",
        "the batch has several names (batch, other): inputs and outputs do not belong together",
    }


def test_files_of_others(exported: Exported, tmp_path: Path, save: Save) -> None:
    with pytest.raises(ExportError, match=r"none\.onnx: no such file: check the path"):
        read_graph(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ExportError, match=r"text\.onnx: no valid ONNX file .*: export the model again"):
        read_graph(tmp_path / "text.onnx")
    value = onnx.helper.make_tensor_value_info("x", 1, ["n"])
    empty = onnx.helper.make_empty_tensor_value_info("y")
    other = onnx.helper.make_model(onnx.helper.make_graph([node("Relu", ["x"], "y")], "other", [value], [empty]))
    other.graph.output[0].type.CopyFrom(value.type)
    with pytest.raises(ExportError, match=r"inputs are x and its outputs y, expected images, .* of another project"):
        read_graph(save(other))


def test_images_to_compare_on(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images to compare with: give a folder of real ones with --images"):
        images_in(tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    recipe = Recipe.squash((64, 64))
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded .*take it out of the folder"):
        draw_sample(exported.model, exported.postprocessor, images_in(tmp_path), recipe)
    with pytest.raises(DataError, match=r"b\.png: no such image"):
        draw_sample(exported.model, exported.postprocessor, [tmp_path / "b.png"], recipe)


def test_images_on_which_pytorch_is_unstable_are_left_out(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    from isdfine.deploy.onnx import sample

    recipe, paths = Recipe.squash((64, 64)), images_in(IMAGES)
    monkeypatch.setattr(sample, "JITTERS", (0.6, 0.5))
    with pytest.raises(DataError, match="jump at rounding noise on all 8 images: give other ones"):
        draw_sample(exported.model, exported.postprocessor, paths[:1], recipe)
    assert exported.sample.unstable == 0
    monkeypatch.setattr(sample, "JITTERS", (0.5, 1e-7))
    drawn = draw_sample(
        exported.model, exported.postprocessor, paths[:3], recipe
    )  # the smaller noise where the larger leaves no image
    assert (drawn.unstable, drawn.jitter, len(drawn.pixels)) == (0, 1e-7, 8)


def test_one_image_is_shown_in_eight_ways(exported: Exported) -> None:
    """A batch of one image eight times would not show that its results are mixed up."""
    drawn = draw_sample(exported.model, exported.postprocessor, images_in(IMAGES)[:1], Recipe.squash((64, 64)))
    assert len({pixel.tobytes() for pixel in drawn.pixels}) == 8
    assert np.array_equal(drawn.pixels[1], drawn.pixels[0][:, :, ::-1])  # mirrored
