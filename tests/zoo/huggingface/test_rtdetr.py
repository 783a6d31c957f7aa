# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR and RT-DETRv2 of transformers: weights and config both ways, equal outputs, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from isdfine.conversion.convert import ConversionRequest, convert
from isdfine.core.checkpoint.card import Card
from isdfine.core.errors import CheckpointError
from isdfine.load import load_detector, open_checkpoint
from isdfine.zoo.huggingface.config import config_to_huggingface
from isdfine.zoo.huggingface.folder import write_folder
from isdfine.zoo.huggingface.weights import from_huggingface, to_huggingface
from rtdetr_cases import filled, official

transformers = pytest.importorskip("transformers")

SHALLOW = ["rtdetr_r18vd", "rtdetrv2_r18vd"]
CLASSES = {"rtdetr": "RTDetrForObjectDetection", "rtdetrv2": "RTDetrV2ForObjectDetection"}


def folder_of(name: str, model: torch.nn.Module, folder: Path) -> Path:
    config = official(name)
    content = config_to_huggingface(config.data, num_classes=80)
    weights = to_huggingface(model.state_dict())
    write_folder(folder, content, weights, Card(config=config.data), image_size=(640, 640))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *SHALLOW,
        pytest.param("rtdetr_r50vd", marks=pytest.mark.slow),
        pytest.param("rtdetrv2_r50vd", marks=pytest.mark.slow),
    ],
)
def test_transformers_agrees_and_gives_the_weights_back(name: str, tmp_path: Path) -> None:
    ours = filled(name).eval()
    folder = folder_of(name, ours, tmp_path / "hf")
    kind = getattr(transformers, CLASSES[name.split("_")[0]])
    theirs, said = kind.from_pretrained(folder, output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answer, reference = ours(image), theirs.eval()(pixel_values=image)
    rows = torch.cat((answer.logits[0], 50 * answer.boxes[0]), -1)  # logits to 1e-3, boxes to 2e-5
    apart = torch.cdist(rows, torch.cat((reference.logits[0], 50 * reference.pred_boxes[0]), -1), p=float("inf"))
    assert max(apart.amin(0).max(), apart.amin(1).max()) < 1e-3  # as sets: selected queries of near ties change places
    state = {key: value for key, value in ours.state_dict().items() if not key.endswith((".anchors", ".valid_mask"))}
    for weights in (theirs.state_dict(), open_checkpoint(folder).weights):
        back = weights if "backbone.conv1.conv1_1.conv.weight" in weights else from_huggingface(weights)
        counters = {key for key in state if key.endswith("num_batches_tracked")}
        assert set(state) - counters <= set(back) <= set(state)
        assert all(torch.equal(value, state[key]) for key, value in back.items())


@pytest.mark.parametrize("name", SHALLOW)
def test_a_folder_of_transformers_is_a_detector(name: str, tmp_path: Path) -> None:
    ours = filled(name).eval()
    folder = folder_of(name, ours, tmp_path / "hf")
    for card in folder.glob("*card*"):
        card.unlink()
    loaded = load_detector(folder)
    assert loaded.checkpoint.form.startswith("transformers RT-DETR folder")
    assert loaded.config.get("RTDETR")["decoder"] == official(name).get("RTDETR")["decoder"]
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answer, reference = loaded.model(image), ours(image)
    assert (answer.logits - reference.logits).abs().max() < 1e-4


@pytest.mark.parametrize("name", SHALLOW)
def test_conversion_there_and_back(name: str, tmp_path: Path) -> None:
    config = official(name)
    state = filled(name).state_dict()
    torch.save({"ema": {"module": state}}, tmp_path / "official.pth")
    source = open_checkpoint(tmp_path / "official.pth")
    done = convert(source, config, ConversionRequest("huggingface", tmp_path / "hf"))
    assert max(done.logits, done.boxes) < 1e-4
    convert(open_checkpoint(tmp_path / "hf"), config, ConversionRequest("official", tmp_path / "back.pth"))
    back = open_checkpoint(tmp_path / "back.pth").weights
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"RTDETRTransformerv2.box_head": "fdr"},
            "RTDETRTransformerv2.box_head is 'fdr': transformers' RT-DETR has no s",
        ),
        ({"RTDETRTransformerv2.num_points": [4, 2, 4]}, "num_points is .*as many points on every level"),
        ({"HybridEncoder.depth_mult": 2}, "HybridEncoder.depth_mult is 2"),
        ({"PResNet.variant": "b"}, "variant 'b'"),
        ({"RTDETRTransformerv2.eval_idx": 1}, "can only evaluate at the last one"),
        (
            {"RTDETR.backbone": "HGNetv2"},
            "RTDETR.backbone is 'HGNetv2': transformers' RT-DETR corresponds to PResNet only",
        ),
    ],
)
def test_what_transformers_cannot_do_is_named(values: dict[str, Any], message: str) -> None:
    data = official("rtdetrv2_r18vd").data
    changed = json.loads(json.dumps(data))
    for dotted, value in values.items():
        section, key = dotted.split(".")
        changed.setdefault(section, {})[key] = value
    with pytest.raises(CheckpointError, match=message):
        config_to_huggingface(changed, num_classes=80)


def test_weights_of_another_backbone_are_refused() -> None:
    state = {"backbone.stem.stem1.conv.weight": torch.zeros(1), "decoder.decoder.layers.0.norm2.weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"not weights of our RT-DETR on ResNet-vd.*backbone.stem.stem1"):
        to_huggingface(state)
