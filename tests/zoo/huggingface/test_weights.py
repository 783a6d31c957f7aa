# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of transformers' D-FINE: the same keys after a round trip, the same outputs."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_cases import load_json
from hf_cases import compare, filled, is_version_5, load_theirs, micro, official, their_model
from isdfine.core.checkpoint.card import Card
from isdfine.core.checkpoint.weights import load_weights
from isdfine.core.errors import CheckpointError
from isdfine.zoo.huggingface.config import config_from_huggingface, config_to_huggingface
from isdfine.zoo.huggingface.families import label_names
from isdfine.zoo.huggingface.folder import read_folder, write_folder
from isdfine.zoo.huggingface.weights import Layout, from_huggingface, to_huggingface

SIZES = ["n", *(pytest.param(size, marks=pytest.mark.slow) for size in "smlx")]
COMPUTED = ("decoder.anchors", "decoder.valid_mask")


def official_state(size: str) -> dict[str, Tensor]:
    """An official state dict in shapes and types; tensors take no memory."""
    found = load_json(f"dfine_{size}_keys.json")["state_dict"]
    return {
        key: torch.zeros((), dtype=getattr(torch, tensor_info["dtype"])).expand(tensor_info["shape"])
        for key, tensor_info in found.items()
    }


@pytest.mark.parametrize("layout", ["file", "module"])
@pytest.mark.parametrize("size", SIZES)
def test_ours_there_and_back(size: str, layout: Layout) -> None:
    ours = official_state(size)
    theirs = to_huggingface(ours, layout=layout)
    back = from_huggingface(theirs)
    expected = {key: tensor.shape for key, tensor in ours.items() if key not in COMPUTED}
    assert {key: tensor.shape for key, tensor in back.items()} == expected
    assert to_huggingface(back, layout=layout).keys() == theirs.keys()
    assert theirs["model.decoder.reg_scale"].dtype == torch.float32


@pytest.mark.parametrize("size", SIZES)
def test_random_weights_of_transformers(size: str) -> None:
    """Default random weights of theirs: the same outputs, and exactly their state dict after a round trip."""
    content = config_to_huggingface(official(size).data, num_classes=80)
    theirs = their_model(content)
    state = theirs.state_dict()
    weights = from_huggingface(state)
    config = official(size).with_values(config_from_huggingface(content, weights))
    ours = config.build("model").eval()
    assert load_weights(ours, weights).complete
    images = torch.rand(2 if size == "n" else 1, 3, 640, 640, generator=torch.Generator().manual_seed(1))
    logits, boxes = compare(theirs, ours, images)
    assert logits <= 1e-4
    assert boxes <= 1e-4
    five = is_version_5()
    back = to_huggingface(ours.state_dict(), layout="module" if five else "file")
    tied = () if five else tuple(key for key in state if key.startswith(("class_embed.", "bbox_embed.")))
    assert back.keys() == state.keys() - set(tied)
    assert all(torch.equal(back[key], state[key]) for key in back)


@pytest.mark.parametrize("size", SIZES)
def test_our_weights_in_transformers(size: str, tmp_path: Path) -> None:
    """A folder of ours loads without missing or unexpected keys and answers the same, also on a rectangle."""
    config = official(size)
    ours = filled(config)
    content = config_to_huggingface(config.data, num_classes=80)
    write_folder(tmp_path, content, to_huggingface(ours.state_dict()), Card(config={}), image_size=(640, 640))
    theirs, info = load_theirs(tmp_path)
    assert not any(info.values())
    random = torch.Generator().manual_seed(1)
    logits, boxes = compare(theirs, ours, torch.rand(2 if size == "n" else 1, 3, 640, 640, generator=random))
    assert logits <= 1e-4
    assert boxes <= 1e-4
    folder = read_folder(tmp_path)
    weights = from_huggingface(folder.weights)
    if is_version_5():  # before, transformers had the official layout
        config = config.with_values(config_from_huggingface(folder.config, weights))
        assert config.get("HybridEncoder.position_layout") == "grid"
    again = config.build("model").eval()
    assert load_weights(again, weights).complete
    logits, boxes = compare(theirs, again, torch.rand(1, 3, 512, 640, generator=random))
    assert logits <= 1e-4
    assert boxes <= 1e-4


def test_published_style(tmp_path: Path) -> None:
    """What transformers' own converter leaves: norms frozen in every size, and reg_scale right in the weights only."""
    config = micro(tmp_path, **{"HGNetv2.freeze_norm": True, "DFINETransformer.reg_scale": 8})
    ours = filled(config)
    content = config_to_huggingface(config.data, num_classes=2) | {"reg_scale": 4.0}
    back = from_huggingface(to_huggingface(ours.state_dict()))
    sections = config_from_huggingface(content, back)
    assert sections["DFINETransformer"]["reg_scale"] == 8
    again = config.with_values(sections).build("model")
    assert load_weights(again, back).complete
    assert again.decoder.box_head.bins.reg_scale.item() == 8


def test_what_transformers_saves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """save_pretrained, in one file and in shards: every tensor comes back, and config.json holds nothing unknown."""
    config = micro(tmp_path)
    theirs = their_model(config_to_huggingface(config.data, num_classes=2, names=("dark", "light")))
    want = from_huggingface(theirs.state_dict())
    for folder, size in (("whole", "1GB"), ("shards", "1MB")):
        theirs.save_pretrained(tmp_path / folder, max_shard_size=size)
        found = read_folder(tmp_path / folder)
        assert found.weights_file.name.endswith(".index.json") == (folder == "shards")
        weights = from_huggingface(found.weights)
        assert weights.keys() == want.keys()
        assert all(torch.equal(weight, want[key]) for key, weight in weights.items())
        with caplog.at_level(logging.WARNING, logger="isdfine"):
            sections = config_from_huggingface(found.config, weights, image_size=(64, 64))
        assert "config.json" not in caplog.text
        assert load_weights(config.with_values(sections).build("model"), weights).complete
        assert label_names(found.config, 2) == ["dark", "light"]


def micro_weights(tmp_path: Path, layout: Layout = "file") -> dict[str, Tensor]:
    return to_huggingface(filled(micro(tmp_path)).state_dict(), layout=layout)


def test_unknown_keys_are_listed(tmp_path: Path) -> None:
    weights = micro_weights(tmp_path)
    strange = ("model.decoder.extra.weight", "model.encoder.aifi.0.layers.0.self_attn.q_proj.scale")
    weights |= dict.fromkeys(strange, torch.ones(1))
    with pytest.raises(CheckpointError, match=r"no counterpart for model\.decoder\.extra\.weight, .*q_proj\.scale"):
        from_huggingface(weights)
    ours = filled(micro(tmp_path)).state_dict()
    with pytest.raises(CheckpointError, match=r"transformers has no place for decoder\.extra, neck\.weight$"):
        to_huggingface(ours | {"decoder.extra": torch.ones(1), "neck.weight": torch.ones(1)})


def test_a_fused_model_is_named_as_such(tmp_path: Path) -> None:
    from isdfine.deploy.fuse import fuse

    with pytest.raises(CheckpointError, match=r"and \d+ more \(a fused model cannot be converted"):
        to_huggingface(fuse(filled(micro(tmp_path))).state_dict())


def test_damaged_weights(tmp_path: Path) -> None:
    weights = micro_weights(tmp_path, "module")
    both = dict(weights)
    both["class_embed.0.bias"] = both["class_embed.0.bias"] + 1
    with pytest.raises(CheckpointError, match=r"class_embed\.0\.bias and model\.decoder\.class_embed\.0\.bias must be"):
        from_huggingface(both)
    lone = {
        key: weight
        for key, weight in weights.items()
        if not key.startswith(("model.decoder.class_", "model.decoder.bbox_"))
    }
    assert from_huggingface(lone).keys() == from_huggingface(weights).keys()
    del weights["model.decoder.layers.0.self_attn.k_proj.bias"]
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.k_proj\.bias missing: the file is incomplete"):
        from_huggingface(weights)
    ours: dict[str, Any] = filled(micro(tmp_path)).state_dict()
    with pytest.raises(CheckpointError, match=r"decoder\.decoder\.up and decoder\.up must be the same number"):
        to_huggingface(ours | {"decoder.decoder.up": torch.tensor([0.75])})
    with pytest.raises(CheckpointError, match=r"in_proj_bias has 5 rows, expected query, key and value"):
        to_huggingface(ours | {"decoder.decoder.layers.0.self_attn.in_proj_bias": torch.ones(5)})


@pytest.mark.parametrize(
    "values",
    [
        {"DFINETransformer.cross_attn_method": "discrete", "DFINETransformer.num_points": 2},
        {"DFINETransformer.num_denoising": 0, "HybridEncoder.num_encoder_layers": 2, "HGNetv2.use_lab": False},
        {"HybridEncoder.enc_act": "relu", "DFINETransformer.activation": "silu", "DFINETransformer.reg_max": 16},
        {
            "HGNetv2.name": "B1",
            "HGNetv2.return_idx": [2, 3],
            "HGNetv2.freeze_norm": True,
            "HybridEncoder.hidden_dim": 24,
        },
    ],
)
def test_variants(tmp_path: Path, values: dict[str, Any]) -> None:
    """Choices beyond the published sizes mean the same in transformers."""
    if "HybridEncoder.hidden_dim" in values:
        values = values | {"DFINETransformer.feat_channels": [24, 24]}
    if "HybridEncoder.num_encoder_layers" in values and not is_version_5():
        pytest.skip("transformers 4 fails on more than one encoder layer")
    config = micro(tmp_path, **values)
    ours = filled(config)
    content = config_to_huggingface(config.data, num_classes=2)
    write_folder(tmp_path / "hf", content, to_huggingface(ours.state_dict()), Card(config={}), image_size=(64, 64))
    theirs, info = load_theirs(tmp_path / "hf")
    assert not any(info.values())
    logits, boxes = compare(theirs, ours, torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    assert logits <= 1e-4
    assert boxes <= 1e-4
    assert from_huggingface(theirs.state_dict()).keys() == ours.state_dict().keys() - set(COMPUTED)
