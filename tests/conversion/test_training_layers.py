# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
import yaml

import isdfine
from hf_cases import filled, micro
from isdfine.conversion.convert import ConversionRequest, convert
from isdfine.conversion.training_layers import drop_training_layers
from isdfine.core.checkpoint.weights import load_weights
from isdfine.core.errors import CheckpointError
from isdfine.load import open_checkpoint

DEEP = {"DFINETransformer.num_layers": 4, "DFINETransformer.eval_idx": 1, "DFINETransformer.layer_scale": 2}


def test_the_rest_is_a_whole_shallow_model(tmp_path: Path) -> None:
    config = micro(tmp_path, **DEEP)
    model = filled(config)
    shorter, weights, what = drop_training_layers(config, model.state_dict())
    assert what == "left out 2 of 4 decoder layers, which only training runs"
    decoder = shorter.get("DFINETransformer")
    assert (decoder["num_layers"], decoder["eval_idx"], decoder["layer_scale"]) == (2, -1, 1)
    shallow = shorter.build("model").eval()
    assert load_weights(shallow, weights).complete
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        want, got = model(images), shallow(images)
    assert torch.equal(got.logits, want.logits)
    assert torch.equal(got.boxes, want.boxes)


@pytest.mark.parametrize("name", ["num_layers", "num_decoder_layers"])
def test_the_layers_of_an_rtdetr_under_either_name(name: str, tmp_path: Path) -> None:
    small = {"hidden_dim": 16, "nhead": 2, "dim_feedforward": 24}
    sections = {
        **{"model": "RTDETR", "num_classes": 3, "PResNet": {"depth": 18, "return_idx": [1, 2, 3]}},
        "RTDETR": {"backbone": "PResNet", "encoder": "HybridEncoder", "decoder": "RTDETRTransformer"},
        "HybridEncoder": {"in_channels": [128, 256, 512], **small},
        "RTDETRTransformer": {"feat_channels": [16, 16, 16], name: 3, "eval_idx": 1, **small},
    }
    (tmp_path / "run.yml").write_text(yaml.safe_dump(sections))
    config = isdfine.load_config(tmp_path / "run.yml")
    shorter, weights, what = drop_training_layers(config, config.build("model").state_dict())
    assert what == "left out 1 of 3 decoder layers, which only training runs"
    assert shorter.get("RTDETRTransformer")[name] == 2
    assert load_weights(shorter.build("model"), weights).complete


def test_a_decoder_that_is_given_inline(tmp_path: Path) -> None:
    config = micro(tmp_path)
    sections = config.data
    inline = {"type": "DFINETransformer", **sections["DFINETransformer"], "num_layers": 3, "eval_idx": 0}
    config = config.with_values({"DFINE": {"decoder": inline}})
    shorter, weights, what = drop_training_layers(config, config.build("model").state_dict())
    assert what is not None
    assert shorter.get("DFINE.decoder.num_layers") == 1
    assert load_weights(shorter.build("model"), weights).complete


def test_nothing_to_leave_out(tmp_path: Path) -> None:
    config = micro(tmp_path)
    state = filled(config).state_dict()
    same, weights, what = drop_training_layers(config, state)
    assert same is config
    assert what is None
    assert weights.keys() == state.keys()


def test_weights_of_another_depth(tmp_path: Path) -> None:
    config = micro(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"DFINETransformer has 4 decoder layers, the weights have 2: use the con"
    ):
        drop_training_layers(config.with_values(DEEP), filled(config).state_dict())


@pytest.mark.parametrize("form", ["huggingface", "official"])
def test_conversion(form: str, tmp_path: Path) -> None:
    """A folder of transformers never has these layers; other files only lose them when asked."""
    config = micro(tmp_path, **DEEP)
    torch.save({"model": filled(config).state_dict()}, tmp_path / "deep.pth")
    source = open_checkpoint(tmp_path / "deep.pth")
    whole = convert(source, config, ConversionRequest("official", tmp_path / "whole.pth"))
    assert whole.left_out is None
    assert open_checkpoint(tmp_path / "whole.pth").weights.keys() == source.weights.keys()
    output = tmp_path / ("hf" if form == "huggingface" else "short.pth")
    found = convert(source, config, ConversionRequest(form, output, inference=form == "official"))
    assert found.left_out == "left out 2 of 4 decoder layers, which only training runs"
    again = open_checkpoint(output)
    assert not [key for key in again.weights if ".layers.2." in key and key.startswith("decoder.decoder.")]
    assert "which only training runs" in again.notes
    assert max(found.logits, found.boxes) == 0
