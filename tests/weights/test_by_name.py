# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A published checkpoint by its name, from the server into training, inference and conversion."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import isdfine
from builders import load_tool, micro_sections, write_coco
from file_server import FileServer
from isdfine.core.checkpoint.card import read_card
from isdfine.core.config import shipped
from isdfine.core.errors import CheckpointError
from isdfine.data.classes import class_list
from isdfine.data.label_space import MSCOCO
from isdfine.solver.training import Training
from isdfine.weights.cache import file_of
from isdfine.weights.table import TABLE, Published


def publish(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch, *, classes: str,
    categories: Sequence[tuple[int, str]] = ((1, "person"), (2, "unheard of"), (18, "dog")),
) -> Path:  # fmt: skip
    """A micro checkpoint as the official code writes it, named ``micro-ID`` and served; a config for a run from it."""
    own = folder / "own.yml"
    own.write_text(yaml.safe_dump(micro_sections(write_coco(folder / "data", categories=categories), folder / "run")))
    settings = {"remap_mscoco_category": classes == "coco", "num_classes": len(class_list(classes))}
    (folder / "shipped").mkdir()
    there = {**micro_sections(folder / "nowhere" / "a.json", folder / "run"), **settings}
    (folder / "shipped" / "micro.yml").write_text(yaml.safe_dump(there))
    monkeypatch.setattr(shipped, "SHIPPED", folder / "shipped")
    torch.manual_seed(1)
    model = isdfine.load_config(folder / "shipped" / "micro.yml").build("model")
    state = {"ema": {"module": model.state_dict()}, "model": model.state_dict(), "last_epoch": 71}
    torch.save(state, folder / "official.pth")
    server.files["/micro.pth"] = (folder / "official.pth").read_bytes()
    facts = {"source": "page", "licence": "MIT", "folder": server.url, "file": "micro.pth"}
    monkeypatch.setitem(TABLE, "micro-id", Published(name="micro-id", config="micro.yml", classes=classes, **facts))
    return own


def test_fine_tuning_from_a_name_takes_class_rows_by_name(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = publish(server, tmp_path, monkeypatch, classes="coco")
    assert load_tool("train").main(["-c", str(config), "-t", "micro-id", "-u", "epoches=1"]) == 0
    report = json.loads((tmp_path / "run" / "load_report.json").read_text())
    assert report["classes"]["source_rows"] == [0, None, 16]
    assert len(server.requests) == 1
    assert isdfine.load_config(tmp_path / "run" / "config.yml").settings.tuning is None


def test_rows_that_are_ids_of_objects365_are_known_too(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = publish(server, tmp_path, monkeypatch, classes="objects365_366")
    # tuning_classes is of a recipe; the file is what the table says
    run = Training(isdfine.load_config(config, ["tuning=micro-id", "tuning_classes=coco"]))
    report = run.tune_from("micro-id")
    names = class_list("objects365_366").names
    assert report.classes is not None
    assert report.classes.rows == (names.index("Person"), None, names.index("Dog"))
    assert any("tuning_classes coco was not needed" in note for note in report.notes)


def test_a_detector_from_a_name_knows_config_and_classes(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, tmp_path, monkeypatch, classes="coco")
    detector = isdfine.Detector.load("micro-id", device="cpu")
    assert detector.label_space == MSCOCO
    picture = Image.new("RGB", (96, 64))
    found = detector.detect(picture, threshold=0.0)
    assert len(found) == 10
    by_hand = isdfine.Detector.load(
        tmp_path / "official.pth", config=tmp_path / "shipped" / "micro.yml", device="cpu"
    ).detect(picture, threshold=0.0)
    assert torch.equal(torch.as_tensor(found.boxes), torch.as_tensor(by_hand.boxes))
    with pytest.raises(CheckpointError, match="holds no config"):  # elsewhere nothing is known about the same file
        isdfine.Detector.load(tmp_path / "official.pth", device="cpu")
    assert isdfine.Detector.load(file_of(TABLE["micro-id"]), device="cpu").label_space == MSCOCO


def test_the_other_commands_take_a_name(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = publish(server, tmp_path, monkeypatch, classes="coco", categories=[(i, n) for n, i in zip(
        MSCOCO.names, MSCOCO.category_ids)])  # fmt: skip
    target = tmp_path / "micro.safetensors"
    assert load_tool("convert_checkpoint").main(["micro-id", str(target), "--to", "safetensors"]) == 0
    card = read_card(target)
    assert card is not None
    assert (card.names, card.licence) == (MSCOCO.names, "MIT")
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    assert load_tool("infer").main(["-m", "micro-id", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "detections.json").is_file()
    assert load_tool("train").main(["-c", str(config), "--test-only", "-r", "micro-id"]) == 0
    assert "AP" in capsys.readouterr().out
    assert load_tool("train").main(["-c", str(config), "-r", "micro-id"]) == 2
    assert "start from them with -t" in capsys.readouterr().err
    assert len(server.requests) == 1


def test_a_mistyped_name_is_found_before_the_data_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "a.yml"
    config.write_text(yaml.safe_dump(micro_sections(tmp_path / "nowhere" / "a.json", tmp_path / "run")))
    with caplog.at_level(logging.INFO):
        assert load_tool("train").main(["-c", str(config), "-t", "dfine-s-obj365s"]) == 2
    assert "no weights of this name, did you mean dfine-s-obj365?" in capsys.readouterr().err
