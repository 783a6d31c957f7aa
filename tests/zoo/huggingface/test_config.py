# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""``config.json`` and our YAML: equal after a round trip, refused where transformers and we differ."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_cases import micro, official
from isdfine.core.errors import CheckpointError
from isdfine.zoo.huggingface.config import config_from_huggingface, config_to_huggingface
from isdfine.zoo.huggingface.families import label_names

PARTS = ("HGNetv2", "HybridEncoder", "DFINETransformer", "DFINECriterion")
TRAINING_ONLY = {"freeze_at", "freeze_stem_only", "local_model_dir", "pretrained"}


def weights_of(num_classes: int, reg_scale: float = 4.0) -> dict[str, Tensor]:
    return {
        "decoder.enc_score_head.weight": torch.zeros(num_classes, 4),
        "decoder.dec_score_head.0.bias": torch.zeros(num_classes),
        "decoder.reg_scale": torch.tensor([reg_scale]),
    }


@pytest.mark.parametrize("size", "nsmlx")
def test_published_sizes_come_back_equal(size: str) -> None:
    """Every value that our YAML gives is there again, with the values that files of transformers leave to defaults."""
    data = official(size).data
    content = config_to_huggingface(data, num_classes=80)
    back = config_from_huggingface(content, weights_of(80, 8 if size == "x" else 4))
    for part in PARTS:
        given = {
            key: value for key, value in data[part].items() if key not in TRAINING_ONLY | {"act", "query_select_method"}
        }
        if part == "DFINECriterion":
            given.pop("matcher", None)
        assert {key: back[part].get(key) for key in given} == given
    again = config_to_huggingface(back, num_classes=80)
    assert again == content
    assert back["eval_spatial_size"] == [640, 640]


def test_the_published_values_of_size_l_and_their_defaults() -> None:
    """Files of transformers 4 leave out what equals the defaults: for size L the whole backbone."""
    content = config_to_huggingface(official("l").data, num_classes=80)
    kept = ("model_type", "id2label", "backbone_config", "decoder_n_points")
    short: dict[str, Any] = {key: content[key] for key in kept}
    short["backbone_config"] = {"model_type": "hgnet_v2", "out_features": ["stage2", "stage3", "stage4"]}
    assert config_from_huggingface(short, weights_of(80)) == config_from_huggingface(content, weights_of(80))


def test_labels() -> None:
    assert label_names({"id2label": {"1": "b", "0": "a"}}, 2) == ["a", "b"]
    assert label_names({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, 2) is None
    assert label_names({}, 2) is None
    with pytest.raises(CheckpointError, match=r"id2label has 2 labels, the weights have 3 classes: correct id2label"):
        label_names({"id2label": {"0": "a", "1": "b"}}, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "deformable_detr", "architectures": ["DeformableDetr"]}, r"type .deformable_detr. \(Deform"),
        ({"model_type": None}, "model of type None"),
        ({"normalize_before": True}, "normalize_before is True, our D-FINE has False and no choice"),
        ({"eval_size": [640, 640]}, r"eval_size is \[640, 640\]"),
        ({"eval_idx": 0}, "eval_idx is 0 of 2 decoder layers: transformers can only evaluate at the last one"),
        ({"num_feature_levels": 3}, "makes 3 levels from 2 maps"),
        ({"backbone_config": {"model_type": "resnet"}}, "the backbone is 'resnet', only HGNetV2"),
        ({"backbone_config": None, "backbone": "resnet50"}, "the backbone is 'resnet50'"),
        (
            {"backbone_config": {"model_type": "hgnet_v2", "stage_num_blocks": [9, 9, 9, 9]}},
            r"none of HGNetV2 B0, .*9, 9",
        ),
        ({"id2label": {"0": "a"}}, "id2label has 1 labels, the weights have 2 classes"),
    ],
)
def test_what_we_cannot_follow_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    content = config_to_huggingface(micro(tmp_path).data, num_classes=2, names=("a", "b"))
    assert config_from_huggingface(content, weights_of(2))["num_classes"] == 2
    with pytest.raises(CheckpointError, match=message):
        config_from_huggingface(content | changes, weights_of(2))


def test_weights_that_contradict_each_other(tmp_path: Path) -> None:
    content = config_to_huggingface(micro(tmp_path).data, num_classes=2)
    with pytest.raises(
        CheckpointError, match=r"different class counts \(decoder\.enc_score_head\.weight 2, .*bias 3\)"
    ):
        config_from_huggingface(content, weights_of(2) | {"decoder.dec_score_head.0.bias": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="no class heads among the weights: not a D-FINE"):
        config_from_huggingface(content, {})
    with pytest.raises(CheckpointError, match="no reg_scale among the weights: not a D-FINE"):
        config_from_huggingface(content, {key: one for key, one in weights_of(2).items() if "reg_scale" not in key})


def test_differing_entries_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = config_to_huggingface(micro(tmp_path).data, num_classes=2)
    with caplog.at_level(logging.WARNING):
        config_from_huggingface(content, weights_of(2))
        assert not caplog.text
        config_from_huggingface(content | {"attention_dropout": 0.1}, weights_of(2))
    assert "dropout 0.0 and attention_dropout 0.1 differ" in caplog.text


def test_a_size_for_anchors_is_taken_over(tmp_path: Path) -> None:
    content = config_to_huggingface(micro(tmp_path).data, num_classes=2)
    assert config_from_huggingface(content, weights_of(2), image_size=(64, 96))["eval_spatial_size"] == [64, 96]
    sized = content | {"anchor_image_size": 128}
    assert config_from_huggingface(sized, weights_of(2))["eval_spatial_size"] == [128, 128]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "Other"}, "model is 'Other': transformers' D-FINE corresponds to DFINE only"),
        ({"DFINE": {"backbone": "TimmBackbone"}}, r"DFINE\.backbone is 'TimmBackbone'.* HGNetv2 only"),
        ({"DFINETransformer": {"query_select_method": "agnostic"}}, "query_select_method is 'agnostic': .* 'default'"),
        ({"DFINETransformer": {"eval_idx": 0}}, "eval_idx is 0 of 2 decoder layers"),
        ({"DFINETransformer": {"eps": 0.5}}, r"DFINETransformer\.eps is 0\.5"),
        ({"HybridEncoder": {"pe_temperature": 0.5}}, r"pe_temperature is 0\.5: transformers takes whole numbers"),
        ({"eval_spatial_size": [64, 96]}, r"eval_spatial_size is \[64, 96\] .* position_layout: grid"),
        ({"HGNetv2": {"name": "B9"}}, "HGNetv2.name is 'B9': choose one of B0"),
    ],
)
def test_what_transformers_cannot_express_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    data = micro(tmp_path).data
    for key, value in values.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    with pytest.raises(CheckpointError, match=message):
        config_to_huggingface(data, num_classes=2)


def test_inline_components_and_names(tmp_path: Path) -> None:
    data = micro(tmp_path).data
    content = config_to_huggingface(data, num_classes=2, names=("a", "b"))
    assert (content["id2label"], content["label2id"]) == ({"0": "a", "1": "b"}, {"a": 0, "b": 1})
    data["DFINE"]["encoder"] = {"type": "HybridEncoder", **data.pop("HybridEncoder")}
    data.pop("criterion")
    assert config_to_huggingface(data, num_classes=2, names=("a", "b")) == content
    with pytest.raises(CheckpointError, match="1 class names for a model of 2 classes"):
        config_to_huggingface(data, num_classes=2, names=("a",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"zero": "a", "one": "b"}}, r"id2label is .*zero.*: expected class names by number"),
        ({"id2label": ["a", "b"]}, r"id2label is \['a', 'b'\]: expected class names by number"),
        (
            {"decoder_layers": "two", "feat_strides": 8.5},
            r"feat_strides is 8\.5, decoder_layers is 'two': transformers writes something else",
        ),
        ({"encoder_in_channels": ["a"]}, r"encoder_in_channels is \['a'\]"),
        ({"weight_loss_vfl": None}, "weight_loss_vfl is None"),
        ({"learn_initial_query": "no"}, "learn_initial_query is 'no'"),
        (
            {"new_thing": 1},
            "config.json: new_thing: unknown to our D-FINE, .* delete it from config.json if it changes no",
        ),
    ],
)
def test_a_config_that_somebody_damaged(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    content = config_to_huggingface(micro(tmp_path).data, num_classes=2)
    with pytest.raises(CheckpointError, match=message):
        config_from_huggingface(content | changes, weights_of(2))
