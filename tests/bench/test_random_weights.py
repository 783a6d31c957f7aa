# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch

import isdfine
from builders import write_micro_config
from hf_cases import load_theirs
from isdfine.bench.random_weights import leave_neutral_starts, random_detector
from isdfine.core.checkpoint.card import Card
from isdfine.nn.backbone.hgnetv2 import LearnableAffine
from isdfine.zoo.huggingface.config import config_to_huggingface
from isdfine.zoo.huggingface.folder import write_folder
from isdfine.zoo.huggingface.weights import to_huggingface


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> isdfine.Config:
    return isdfine.load_config(write_micro_config(tmp_path_factory.mktemp("micro")), ["num_classes=2"])


def test_nothing_is_left_that_a_runtime_takes_out(config: isdfine.Config) -> None:
    model, built = random_detector(config)
    assert built.get("eval_spatial_size") == [64, 96]
    affine = [module for module in model.modules() if isinstance(module, LearnableAffine)]
    assert affine, "the case has what this is about"
    for value in (one for one in model.state_dict().values() if one.is_floating_point()):
        assert not (value == 1).all()
        assert not (value == 0).all()
    for one in affine:
        assert abs(one.scale.item() - 1) <= 0.1
        assert abs(one.bias.item()) <= 0.05
    assert len({one.scale.item() for one in affine}) == len(affine), "a scale of its own for each"
    with torch.inference_mode():
        found = model(torch.rand(1, 3, 64, 96))
    assert found.logits.isfinite().all()
    assert found.boxes.isfinite().all()


def test_weights_are_the_same_in_every_call(config: isdfine.Config) -> None:
    first, (second, built) = random_detector(config)[0].state_dict(), random_detector(config, (64, 32))
    assert built.get("eval_spatial_size") == [64, 32]
    for name, value in second.state_dict().items():
        assert torch.equal(first[name], value) or "anchor" in name or "valid" in name, name


def test_what_does_not_start_neutral_stays() -> None:
    layer = torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 1.0, 0.5]))
    leave_neutral_starts(layer)
    assert layer.weight.tolist() == [1, 1, 0.5]
    assert 0 < layer.bias.abs().max() <= 0.05
    assert (layer.running_var > 0.89).all()
    assert layer.num_batches_tracked == 0


def test_transformers_gets_the_same_weights(config: isdfine.Config, tmp_path: Path) -> None:
    """As tools/benchmark/peers_onnx.py hands them over."""
    model, built = random_detector(config, (64, 64))
    content = config_to_huggingface(built.data, num_classes=2, names=["dark", "light"])
    write_folder(tmp_path, content, to_huggingface(model.state_dict()), Card(config=built.data), image_size=(64, 64))
    theirs, said = load_theirs(tmp_path)
    assert not said["missing_keys"]
    ours = sorted(module.scale.item() for module in model.modules() if isinstance(module, LearnableAffine))
    values = [tensor for name, tensor in theirs.state_dict().items() if name.endswith("lab.scale")]
    assert sorted(float(value) for value in values) == ours
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want, got = model(pixels), theirs(pixels)
    torch.testing.assert_close(got.logits.sigmoid(), want.logits.sigmoid(), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.pred_boxes, want.boxes, rtol=0, atol=1e-5)
