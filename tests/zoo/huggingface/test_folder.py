# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of transformers: whole, in shards, and broken."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_cases import micro, write_micro_folder
from isdfine.core.errors import CheckpointError
from isdfine.zoo.huggingface.folder import is_huggingface, read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A micro model as transformers keeps it."""
    path = tmp_path / "model"
    write_micro_folder(path, micro(tmp_path))
    return path


def set_json(path: Path, **entries: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | entries))


def shard(folder: Path) -> Path:
    """Split the weights into two files with an index, as save_pretrained does for large models."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(weights)}
    for name in set(places.values()):
        save_file({key: weight for key, weight in weights.items() if places[key] == name}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_a_folder_its_file_and_its_shards_are_the_same(folder: Path) -> None:
    whole = read_folder(folder)
    assert whole.image_size == (64, 64)
    assert is_huggingface(folder)
    assert is_huggingface(folder / "model.safetensors")
    assert not is_huggingface(folder / "config.json")
    assert read_folder(folder / "model.safetensors").weights.keys() == whole.weights.keys()
    index = shard(folder)
    for path in (folder, index):
        split = read_folder(path)
        assert split.weights.keys() == whole.weights.keys()
        assert all(torch.equal(weight, whole.weights[key]) for key, weight in split.weights.items())
    set_json(index, weight_map=dict.fromkeys(whole.weights, "pytorch_model.bin"))
    torch.save(whole.weights, folder / "pytorch_model.bin")
    index.unlink()
    assert read_folder(folder).weights_file.name == "pytorch_model.bin"


def test_preprocessors(folder: Path) -> None:
    file = folder / "preprocessor_config.json"
    set_json(file, size=96)
    assert read_folder(folder).image_size == (96, 96)
    set_json(file, size={"height": 64, "width": 96})
    assert read_folder(folder).image_size == (64, 96)
    set_json(file, size={"shortest_edge": 800})
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: size is .*shortest_edge.* fixed size"):
        read_folder(folder)
    file.unlink()
    assert read_folder(folder).image_size == (640, 640)


def test_another_architecture_is_named(folder: Path) -> None:
    set_json(folder / "config.json", model_type="detr", architectures=["DetrForObjectDetection"])
    with pytest.raises(CheckpointError, match=r"config\.json: this is a model of type .detr. \(DetrForObject"):
        read_folder(folder)


def test_missing_files(folder: Path) -> None:
    index = shard(folder)
    lost = folder / "model-00002-of-00002.safetensors"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors: this shard is missing"):
        read_folder(folder)
    lost.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors .* truncated or not a checkpoint"):
        read_folder(folder)
    lost.write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"index\.json: its shards lack \d+ tensors, for example model\."):
        read_folder(folder)
    set_json(index, weight_map={"a": "../other.safetensors"})
    with pytest.raises(
        CheckpointError, match=r"names the shard '\.\./other\.safetensors', which is not a file of this"
    ):
        read_folder(folder)
    set_json(index, weight_map={})
    with pytest.raises(CheckpointError, match="no weight_map in it"):
        read_folder(folder)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"no weights in it: expected one of model\.safetensors"):
        read_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json in it: give a folder that transformers'"):
        read_folder(folder)


def test_damaged_files(folder: Path) -> None:
    # safetensors orders its metadata by chance: the sum is among the first 1000 bytes, or the library itself refuses
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors \(1000 bytes\) cannot be read"):
        read_folder(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"model": {"a": torch.ones(1)}}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: not the weights of a transformers model"):
        read_folder(folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON .* truncated or damaged"):
        read_folder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json: holds a list, expected an object"):
        read_folder(folder)
