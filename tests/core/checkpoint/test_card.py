# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Cards: written, read back, and refused where they are wrong."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from isdfine.core.checkpoint.card import (
    FORMAT,
    UNKNOWN_LICENCE,
    Card,
    card_path,
    file_sha256,
    read_card,
    save_weights,
    write_card,
)
from isdfine.core.errors import CheckpointError

LABELS = {"names": ["dark", "light"], "category_ids": [7, 3]}  # in label order, as the user fixed it


def make_card(**given: Any) -> Card:
    values: dict[str, Any] = {"config": {"num_classes": 2, "lr": 1e-5}, "label_space": LABELS, "metrics": {"AP": 0.5}}
    return Card(**{**values, "licence": "Apache-2.0", "source": "test", "version": "1.2", **given})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file with its card."""
    path = tmp_path / "deep" / "model.safetensors"
    shared = torch.arange(6.0).reshape(2, 3)
    save_weights({"a": shared, "b": shared.T}, path, make_card())
    return path


def edit(weights: Path, **changes: Any) -> None:
    path = card_path(weights)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_card_comes_back_equal(weights: Path) -> None:
    card = read_card(weights)
    assert card is not None
    assert card == make_card(sha256=file_sha256(weights), date=card.date)
    assert card.date.endswith("+00:00")
    assert card.names == ("dark", "light")
    assert make_card(label_space=None).names is None
    assert make_card(licence=UNKNOWN_LICENCE).licence == "unknown, set --licence"
    assert sorted(path.name for path in weights.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_a_lone_weights_file_still_says_what_it_is(weights: Path) -> None:
    card_path(weights).unlink()
    card = read_card(weights)
    assert card is not None
    assert (card.label_space, card.config, card.sha256) == (LABELS, {"num_classes": 2, "lr": 1e-5}, "")
    with safe_open(weights, "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert torch.equal(file.get_tensor("b"), torch.arange(6.0).reshape(2, 3).T)


def test_weights_get_the_usual_permissions(weights: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(weights.stat().st_mode) == 0o666 & ~umask


def test_no_card(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    assert read_card(tmp_path / "x.pth") is None
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    assert read_card(tmp_path / "x.safetensors") is None
    (tmp_path / "x.json").write_text('{"model_type": "other"}')
    assert read_card(tmp_path / "x.safetensors") is None


def test_a_card_of_other_weights_is_refused(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(
        CheckpointError, match=r"model\.json: this card belongs to weights with SHA-256 .* delete the card"
    ):
        read_card(weights)
    assert read_card(weights, verify=False) is not None
    card = read_card(weights, verify=False)
    assert card is not None
    write_card(weights, card)
    assert read_card(weights) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"isdfine": FORMAT + 1},
            rf"format {FORMAT + 1}, this version of isdfine reads up to {FORMAT}: update isdfine",
        ),
        ({"isdfine": "1"}, "entry isdfine is '1', expected"),
        ({"licens": "MIT"}, "unknown entries licens: known are config, date, label_space"),
        ({"licence": " "}, "licence is empty"),
        ({"licence": 3}, "licence is 3, expected a text"),
        ({"config": []}, "config is list, expected a mapping"),
        ({"metrics": {"AP": "high"}}, "metrics.AP is 'high', expected a finite number"),
        ({"metrics": 1}, "metrics is 1, expected numbers by name"),
        ({"label_space": ["a"]}, "label_space is .* expected null, or names and category_ids"),
        ({"label_space": {"names": ["a", 1], "category_ids": [1, 2]}}, "names must be a list of texts"),
        ({"label_space": {"names": ["a"], "category_ids": ["1"]}}, "category_ids must be a list of whole numbers"),
        ({"label_space": {"names": ["a"], "category_ids": [1, 2]}}, "1 names for 2 category_ids"),
        ({"label_space": {"names": ["a", "b"], "category_ids": [2, 2]}}, "category_ids are not unique: give every"),
    ],
)
def test_wrong_entries_are_named(weights: Path, changes: dict[str, Any], message: str) -> None:
    edit(weights, **changes)
    with pytest.raises(CheckpointError, match=rf"model\.json: .*{message}"):
        read_card(weights)


def test_broken_json_and_a_missing_config(weights: Path) -> None:
    text = card_path(weights).read_text()
    card_path(weights).write_text(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match=r"model\.json: not a model card: it is not JSON .* restore or delete it"):
        read_card(weights)
    card_path(weights).write_text('{"isdfine": 1}')
    with pytest.raises(CheckpointError, match="the card has no config"):
        read_card(weights)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"a": {1: 2}}, "does not survive JSON"), ({"a": float("nan")}, "not plain data"), ({"a": {1}}, "not plain data")],
)
def test_what_json_cannot_hold_is_refused_before_writing(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_weights({"a": torch.ones(1)}, tmp_path / "x.safetensors", make_card(config=config))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_earlier_files(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in weights.parent.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"could not be written \(No space left on device\).* untouched"):
        save_weights({"a": torch.ones(1)}, weights, make_card())
    assert {path: path.read_bytes() for path in weights.parent.iterdir()} == before


def test_wrong_ending_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pth: weights with a card are kept as \.safetensors"):
        save_weights({}, tmp_path / "x.pth", make_card())
    with pytest.raises(CheckpointError, match="cannot be read"):
        file_sha256(tmp_path / "absent")
