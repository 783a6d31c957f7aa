# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import isdfine
from hf_cases import micro
from isdfine.bench.model_info import model_info
from isdfine.conversion.convert import ConversionRequest, convert
from isdfine.core.checkpoint.weights import load_weights
from isdfine.core.config import Config, without_initial_weights
from isdfine.load import open_checkpoint


def with_timm(folder: Path) -> Config:
    """A micro model on a timm backbone that starts from a file."""
    torch.manual_seed(0)
    torch.save(timm.create_model("lcnet_035").state_dict(), folder / "lcnet.pth")
    backbone: dict[str, Any] = {"name": "lcnet_035", "out_indices": [3, 4], "weights": str(folder / "lcnet.pth")}
    sections = {"DFINE.backbone": "TimmBackbone", "TimmBackbone": backbone, "HybridEncoder.in_channels": [88, 176]}
    return micro(folder, **sections)


@pytest.mark.slow  # timm builds its model three times
def test_the_file_of_a_timm_backbone_is_needed_once(tmp_path: Path) -> None:
    """What is converted holds the weights: it is built and measured where the file is gone."""
    config = with_timm(tmp_path)
    torch.save({"model": config.build("model").state_dict()}, tmp_path / "in.pth")
    (tmp_path / "lcnet.pth").unlink()
    output = tmp_path / "out.safetensors"
    convert(open_checkpoint(tmp_path / "in.pth"), config, ConversionRequest("safetensors", output, with_yaml=True))
    kept = isdfine.load_config(output.with_suffix(".yml"))
    assert kept.get("TimmBackbone.weights") is None
    assert load_weights(kept.build("model"), output).complete
    assert model_info(config).params_trained == sum(parameter.numel() for parameter in kept.build("model").parameters())


def test_components_of_every_kind(tmp_path: Path) -> None:
    config = micro(tmp_path, **{"HGNetv2.pretrained": True})
    assert without_initial_weights(config).get("HGNetv2.pretrained") is False
    inline = {"type": "PResNet", "depth": 18, "weights": "r18.pth"}
    config = config.with_values({"DFINE.backbone": inline, "tuning": "start.pth"})
    changed = without_initial_weights(config)
    assert changed.get("DFINE.backbone") == {**inline, "weights": None}
    assert changed.get("tuning") == "start.pth"  # of the run, not of the model
    assert config.get("DFINE.backbone.weights") == "r18.pth"
