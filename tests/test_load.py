# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Every form of a model is recognised, and what is none is named."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_cases import filled, micro, write_micro_folder
from isdfine.core.checkpoint.card import Card
from isdfine.core.errors import CheckpointError
from isdfine.load import open_checkpoint
from isdfine.zoo.huggingface.weights import to_huggingface


@pytest.fixture
def state(tmp_path: Path) -> dict[str, Any]:
    """Weights of the micro model."""
    return filled(micro(tmp_path)).state_dict()


def save(path: Path, content: dict[str, Any]) -> Path:
    torch.save(content, path)
    return path


def test_official_checkpoints_and_their_averages(tmp_path: Path, state: dict[str, Any]) -> None:
    average = {key: tensor + 1 if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    path = save(tmp_path / "official.pth", {"model": state, "ema": {"module": average}})
    key = "decoder.enc_output.proj.bias"
    for ema, want, form in ((None, average, "averaged"), (True, average, "averaged"), (False, state, "plain")):
        source = open_checkpoint(path, ema=ema)
        assert source.form == f"official D-FINE checkpoint ({form} weights)"
        assert torch.equal(source.weights[key], want[key])
        assert source.config is None
    foreign = open_checkpoint(save(tmp_path / "yolo.pth", {"model": {"model.0.conv.weight": torch.ones(1)}}))
    assert foreign.form == "official YOLO of Ultralytics checkpoint (plain weights)"
    with pytest.raises(CheckpointError, match=r"no config.json in it: .*of a run's folder give one checkpoint"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"no averaged weights \(ema\.module\) in it: leave --ema out"):
        open_checkpoint(save(tmp_path / "plain.pth", {"model": state}), ema=True)
    with pytest.raises(CheckpointError, match=r"only averaged weights .* leave --no-ema out"):
        open_checkpoint(save(tmp_path / "average.pth", {"ema": {"module": state}}), ema=False)


def test_ours(tmp_path: Path, state: dict[str, Any]) -> None:
    content = {
        "model": state,
        "config": "num_classes: 2\nlr: 1e-4\n",
        "label_space": {"names": ["a", "b"], "category_ids": [1, 4]},
        "progress": {"best": {"best": 0.25}},
    }
    best = open_checkpoint(save(tmp_path / "best.pth", content))
    assert best.form == "isdfine checkpoint (plain weights)"
    assert (best.config, best.metrics) == ({"num_classes": 2, "lr": 1e-4}, {"AP": 0.25})
    assert best.label_space is not None
    assert best.label_space.category_ids == (1, 4)
    assert open_checkpoint(save(tmp_path / "last.pth", content)).metrics == {}
    with pytest.raises(CheckpointError, match=r"\(config\).*the checkpoint is damaged; give the run's config with -c"):
        assert open_checkpoint(save(tmp_path / "x.pth", content | {"config": "a: [1"})).config
    with pytest.raises(CheckpointError, match=r"its label_space cannot be read .* damaged"):
        assert open_checkpoint(save(tmp_path / "x.pth", content | {"label_space": {"names": ["a"]}})).label_space


def test_transformers_in_every_wrapping(
    tmp_path: Path, state: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = micro(tmp_path)
    write_micro_folder(tmp_path / "hf", config)
    folder = open_checkpoint(tmp_path / "hf")
    assert folder.form == "transformers D-FINE folder (transformers unknown)"
    assert folder.config == config.data
    assert folder.model_sections is not None
    assert folder.label_space is not None
    assert folder.label_space.names == ("dark", "light")
    bare = open_checkpoint(save(tmp_path / "state.pth", to_huggingface(state, layout="module")))
    assert bare.form == "transformers D-FINE state dict"
    assert bare.weights.keys() == folder.weights.keys()
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((tmp_path / "hf" / "model.safetensors").read_bytes())
    assert open_checkpoint(lone).form == "transformers D-FINE weights without config.json"
    renamed = tmp_path / "hf" / "renamed.safetensors"
    renamed.write_bytes(lone.read_bytes())
    assert open_checkpoint(renamed).form == folder.form
    # saved again by transformers: the card no longer belongs to the weights
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    save_file(
        {key: weight + 1 if weight.is_floating_point() else weight for key, weight in weights.items()},
        tmp_path / "hf" / "model.safetensors",
    )
    with caplog.at_level(logging.WARNING):
        assert open_checkpoint(tmp_path / "hf").config is None
    assert "this card belongs to weights with SHA-256" in caplog.text
    assert "the card is left out" in caplog.text


def test_safetensors_without_card(tmp_path: Path, state: dict[str, Any]) -> None:
    weights = {key: tensor.clone() for key, tensor in state.items()}
    save_file(weights, tmp_path / "bare.safetensors")
    source = open_checkpoint(tmp_path / "bare.safetensors")
    assert (source.form, source.config) == ("safetensors without card", None)
    assert source.provenance.startswith("safetensors without card: bare.safetensors, SHA-256 ")
    with pytest.raises(CheckpointError, match=r"holds one set of weights: --ema and --no-ema are for \.pth"):
        open_checkpoint(tmp_path / "bare.safetensors", ema=True)


def test_the_folder_of_a_run_means_its_last_checkpoint(
    tmp_path: Path, state: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    best = save(tmp_path / "best.pth", {"model": state})
    (tmp_path / "config.json").write_text("{}")  # whatever else lies there
    assert open_checkpoint(tmp_path).path == best
    assert "has no last.pth" in caplog.text
    last = save(tmp_path / "last.pth", {"model": state})
    assert open_checkpoint(tmp_path).path == last


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_checkpoint(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json in it"):
        open_checkpoint(tmp_path / "empty")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        open_checkpoint(tmp_path / "cut.pth")


def test_card_classes_are_those_of_the_folder(tmp_path: Path) -> None:
    """The card knows original ids; where its names are others than config.json's, config.json is right."""
    config = micro(tmp_path)
    label_space = {"names": ["dark", "light"], "category_ids": [3, 7]}
    write_micro_folder(tmp_path / "hf", config, Card(config=config.data, label_space=label_space))
    found = open_checkpoint(tmp_path / "hf").label_space
    assert found is not None
    assert found.category_ids == (3, 7)
    text = (tmp_path / "hf" / "config.json").read_text()
    (tmp_path / "hf" / "config.json").write_text(text.replace('"dark"', '"dusk"'))
    found = open_checkpoint(tmp_path / "hf").label_space
    assert found is not None
    assert (found.names, found.category_ids) == (("dusk", "light"), (0, 1))
