# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from files of every kind, and the messages for those that do not fit."""

import collections
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden_cases import load_json
from isdfine.core.checkpoint.weights import load_weights
from isdfine.core.errors import CheckpointError
from isdfine.solver.tuning import map_classes


class Head(nn.Module):
    """A detector's head in miniature: a table of its own, an integer constant and class heads."""

    rebuilt_buffers = ("anchors",)

    def __init__(self, classes: int = 3, anchors: int = 4, whole: bool = True) -> None:
        super().__init__()
        self.class_rows = {"enc_score_head": 0, "label_table": 1}
        self.label_table = nn.Embedding(classes + 1, 2, padding_idx=classes)
        self.enc_score_head = nn.Linear(2, classes)
        self.norm = nn.BatchNorm2d(2)
        self.reg_scale = nn.Parameter(torch.tensor([4]) if whole else torch.tensor([4.0]), requires_grad=False)
        self.register_buffer("anchors", torch.full((anchors, 4), float("inf")))


def model_of(**options: Any) -> nn.Module:
    return nn.ModuleDict({"backbone": nn.Linear(2, 2), "decoder": Head(**options)})


def other_weights(**options: Any) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {key: value.clone() for key, value in model_of(**options).state_dict().items()}


def same(model: nn.Module, state: dict[str, Tensor], but: tuple[str, ...] = ()) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items() if key not in but)


@pytest.mark.parametrize("form", ["bare", "model", "ema", "ours", "no_ema", "ddp", "compiled", "official"])
@pytest.mark.parametrize("as_file", [True, False])
def test_every_form_of_checkpoint(form: str, as_file: bool, tmp_path: Path) -> None:
    state = other_weights()
    wrong = {key: torch.zeros_like(value) for key, value in state.items()}
    content: dict[str, Any] = {
        "bare": state,
        "model": {"model": state, "last_epoch": 3},
        "ema": {"ema": {"module": state, "updates": 7}, "model": wrong},
        "ours": {"model": wrong, "ema": {"module": state, "updates": 7, "decay": 0.9}, "config": {"a": [1, "b", None]}},
        "no_ema": {"model": state, "ema": {}},
        "ddp": {"model": {f"module.{key}": value for key, value in state.items()}},
        "compiled": {f"module._orig_mod.{key}": value for key, value in state.items()},
        "official": {"ema": {"module": state}, "lr_scheduler": {"milestones": collections.Counter([500])}},
    }[form]
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    model = model_of()
    report = load_weights(model, path if as_file else content)
    assert same(model, state)
    assert report.complete
    assert report.kept == ["decoder.anchors"]
    assert report.source == (str(path) if as_file else "state dict")
    assert f"{len(state) - 1} tensors loaded, 0 of another shape, 0 missing, 0 unexpected, 1 kept" in report.summary()


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = other_weights()
    save_file(state, tmp_path / "weights.safetensors")
    model = model_of()
    load_weights(model, tmp_path / "weights.safetensors")
    assert same(model, state)
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match=r"bad.safetensors \(22 bytes\) cannot be read as a checkpoint"):
        load_weights(model, tmp_path / "bad.safetensors")


def test_tables_of_another_input_size_are_kept() -> None:
    model = model_of(anchors=4)
    own = model.state_dict()["decoder.anchors"].clone()
    report = load_weights(model, other_weights(anchors=9))
    assert report.kept == ["decoder.anchors"]
    assert torch.equal(model.state_dict()["decoder.anchors"], own)
    without = {key: value for key, value in other_weights().items() if key != "decoder.anchors"}
    assert load_weights(model, without).complete


@pytest.mark.parametrize("model_whole", [True, False])
@pytest.mark.parametrize("file_whole", [True, False])
def test_reg_scale_as_integer_and_as_float(model_whole: bool, file_whole: bool) -> None:
    state = other_weights(whole=file_whole)
    state["decoder.reg_scale"] = state["decoder.reg_scale"] * 2
    model = model_of(whole=model_whole)
    dtype = model.state_dict()["decoder.reg_scale"].dtype
    load_weights(model, state)
    assert model.state_dict()["decoder.reg_scale"].tolist() == [8]
    assert model.state_dict()["decoder.reg_scale"].dtype == dtype


@pytest.mark.parametrize("value", [4.5, float("nan"), float("inf")])
def test_value_that_the_models_type_cannot_hold(value: float) -> None:
    state = {**other_weights(), "decoder.reg_scale": torch.tensor([value])}
    with pytest.raises(CheckpointError, match=r"decoder.reg_scale \(torch.float32 values that torch.int64 cannot hold"):
        load_weights(model_of(), state)


def test_half_precision_file_is_cast() -> None:
    state = {key: value.half() if value.is_floating_point() else value for key, value in other_weights().items()}
    model = model_of()
    load_weights(model, state)
    assert model["backbone"].weight.dtype == torch.float32
    assert torch.equal(model["backbone"].weight, state["backbone.weight"].float())


def test_batch_counters_do_not_matter() -> None:
    state = other_weights()
    state["backbone.bn.num_batches_tracked"] = torch.tensor(3)
    del state["decoder.norm.num_batches_tracked"]
    report = load_weights(model_of(), state)
    assert report.complete
    assert report.dropped == 1
    assert report.kept == ["decoder.anchors", "decoder.norm.num_batches_tracked"]


def test_class_heads_that_differ() -> None:
    state = other_weights(classes=80)
    model = model_of(classes=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        CheckpointError,
        match=r"3 fitting by name only: decoder.label_table.weight .*enc_score_head.weight \(\[80, 2\] in the file, "
        r".*the file is for 80 classes and the model has 3: to fine-tune on other classes use -t \(strict=False\)",
    ):
        load_weights(model, state)
    assert same(model, before)
    report = load_weights(model, state, strict=False)
    heads = ("decoder.label_table.weight", "decoder.enc_score_head.weight", "decoder.enc_score_head.bias")
    assert tuple(entry.name for entry in report.mismatched) == heads
    assert same(model, state, but=(*heads, "decoder.anchors"))
    assert same(model, before, but=tuple(report.loaded))
    assert "initialised  decoder.enc_score_head.bias: [80] in the file, [3] in the model" in report.table()


def test_rows_of_classes_go_where_their_names_are() -> None:
    state = other_weights(classes=4)
    state["decoder.label_table.weight"][4] = 9.0  # whatever stands for padding in the file
    model = model_of(classes=3)
    before = copy.deepcopy(model.state_dict())
    classes = map_classes(["cat", "dog", "cow", "tv"], ["tvmonitor", "ant", "DOG"], {"tv": "=tv", "tvmonitor": "=tv"})
    report = load_weights(model, state, strict=False, classes=classes)
    after = model.state_dict()
    for key in ("decoder.enc_score_head.weight", "decoder.enc_score_head.bias", "decoder.label_table.weight"):
        assert torch.equal(after[key][0], state[key][3])
        assert torch.equal(after[key][1], before[key][1])
        assert torch.equal(after[key][2], state[key][1])
    assert torch.equal(after["decoder.label_table.weight"][3], torch.zeros(2))
    assert {(entry.name, entry.rows, entry.total, entry.padding) for entry in report.mapped} == {
        ("decoder.enc_score_head.weight", 2, 3, 0),
        ("decoder.enc_score_head.bias", 2, 3, 0),
        ("decoder.label_table.weight", 2, 3, 1),
    }
    assert not report.complete
    assert torch.equal(after["backbone.weight"], state["backbone.weight"])
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_weights(model, state, classes=classes)


def test_classes_of_the_same_number_go_by_name_not_by_position() -> None:
    state, model = other_weights(), model_of()
    load_weights(model, state, strict=False, classes=map_classes(["a", "b", "c"], ["c", "a", "b"], {}))
    bias = "decoder.enc_score_head.bias"
    assert torch.equal(model.state_dict()[bias], state[bias][[2, 0, 1]])


def test_equal_classes_are_loaded_as_they_are() -> None:
    state, model = other_weights(), model_of()
    report = load_weights(model, state, strict=False, classes=map_classes(["a", "b", "c"], ["A", "b", "c"], {}))
    assert same(model, state)
    assert report.complete


def test_a_head_whose_rows_are_not_the_classes_of_the_file_starts_anew() -> None:
    # class-agnostic selection: one row, beside heads of three classes
    state, model = other_weights(), model_of()
    state["decoder.enc_score_head.weight"] = torch.ones(1, 2)
    state["decoder.enc_score_head.bias"] = torch.ones(1)
    report = load_weights(model, state, strict=False, classes=map_classes(["a", "b", "c"], ["c", "a", "b"], {}))
    assert [entry.name for entry in report.mapped] == ["decoder.label_table.weight"]
    assert [entry.name for entry in report.mismatched] == [
        "decoder.enc_score_head.weight",
        "decoder.enc_score_head.bias",
    ]


def test_missing_and_unexpected_keys_are_named_ten_at_most() -> None:
    state = other_weights()
    del state["backbone.bias"]
    state |= {f"neck.{index}": torch.zeros(1) for index in range(13)}
    with pytest.raises(
        CheckpointError,
        match=r"1 missing in the file: backbone.bias; 13 not in the model: neck.0, .*neck.9 and 3 more; "
        r"use the config the checkpoint was trained with, or -t",
    ):
        load_weights(model_of(), state)
    table = load_weights(model_of(), state, strict=False).table()
    assert "initialised  backbone.bias: not in the file" in table
    assert "unused       neck.0..12 (13 tensors): not in the model" in table


def test_nothing_fits() -> None:
    with pytest.raises(CheckpointError, match=r"state dict: none of its 1 tensors fits ModuleDict, for example neck"):
        load_weights(model_of(), {"neck": torch.zeros(1)}, strict=False)


def test_official_keys_of_one_size_do_not_fit_another() -> None:
    small, nano = (load_json(f"dfine_{variant}_keys.json")["state_dict"] for variant in "sn")

    def tensors(keys: dict[str, Any]) -> dict[str, Tensor]:
        return {
            name.replace(".", "/"): torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"]))
            for name, entry in keys.items()
        }

    model = nn.Module()
    for name, value in tensors(nano).items():
        model.register_buffer(name, value)
    with pytest.raises(CheckpointError, match="use the config the checkpoint was trained with"):
        load_weights(model, tensors(small))


@pytest.mark.parametrize(
    ("keys", "family"),
    [
        (["decoder.pre_bbox_head.layers.0.bias", "decoder.decoder.layers.0.gateway.gate.bias"], "D-FINE"),
        (["decoder.pre_bbox_head.layers.0.bias", "decoder.decoder.lqe_layers.0.reg_conf.layers.0.bias"], "D-FINE"),
        (["decoder.pre_bbox_head.layers.0.bias", "decoder.dec_bbox_head.0.layers.0.bias"], "RT-DETR"),  # with FDR
        (["decoder.dec_bbox_head.0.layers.0.bias"], "RT-DETR"),
        (["backbone.0.projector.stages.0.weight", "refpoint_embed.weight"], "RF-DETR or LW-DETR"),
        (["label_enc.weight", "transformer.enc_out_class_embed.bias", "transformer.level_embed"], "DINO"),
        (["label_enc.weight", "refpoint_embed.weight"], "DN-DETR"),
        (["refpoint_embed.weight"], "DAB-DETR"),
        (["transformer.level_embed", "query_embed.weight"], "Deformable DETR"),
        (["transformer.decoder.layers.0.multihead_attn.in_proj_bias", "query_embed.weight"], "DETR"),
        (["roi_heads.box_predictor.cls_score.bias", "rpn.head.conv.0.0.bias"], "Faster R-CNN"),
        (["model.0.conv.weight", "model.22.cv2.0.bias"], "a YOLO of Ultralytics"),
    ],
)
def test_a_checkpoint_of_another_family_is_named(keys: list[str], family: str) -> None:
    state = {key: torch.zeros(1) for key in keys}
    with pytest.raises(CheckpointError) as error:
        load_weights(nn.ModuleDict({"head": nn.Linear(2, 2)}), state, source="x.pth")
    assert f"these are the weights of {family}, another family of detectors" in str(error.value)
    assert "\n" not in str(error.value)
