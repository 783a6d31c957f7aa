# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""isdfine convert from end to end with a micro model."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

import isdfine
import rtdetr_cases
from builders import load_tool, write_coco, write_micro_config
from hf_cases import filled, micro, write_micro_folder
from isdfine.core.checkpoint.card import Card, read_card
from isdfine.core.errors import CheckpointError
from isdfine.data.label_space import LabelSpace
from isdfine.load import load_detector, open_checkpoint
from isdfine.solver.solver import check_classes
from isdfine.zoo.huggingface.config import config_to_huggingface
from isdfine.zoo.huggingface.folder import write_folder
from isdfine.zoo.huggingface.weights import to_huggingface


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The tool as a module."""
    return load_tool("convert_checkpoint")


def test_official_to_safetensors(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = micro(tmp_path)
    (tmp_path / "config.yml").write_text(config.dump())
    torch.save({"model": filled(config).state_dict()}, tmp_path / "in.pth")
    first = [str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors"), "--to", "safetensors"]
    assert tool.main(first) == 2
    assert "(official D-FINE checkpoint (plain weights)) holds no config: give the YAML" in capsys.readouterr().err
    more = ["-c", str(tmp_path / "config.yml"), "--licence", "MIT", "--metric", "AP=0.5", "AP50=0.75"]
    more += ["--classes", str(tmp_path / "data" / "annotations.json")]
    assert tool.main(first + more) == 0
    out = capsys.readouterr().out
    assert "official D-FINE checkpoint (plain weights)" in out
    assert "classes:  2: 1=dark, 2=light" in out
    assert "largest difference on a seeded image: logits 0, boxes 0" in out
    card = read_card(tmp_path / "out.safetensors")
    assert card is not None
    assert (card.licence, card.metrics, card.version) == ("MIT", {"AP": 0.5, "AP50": 0.75}, isdfine.__version__)
    assert card.label_space == {"names": ["dark", "light"], "category_ids": [1, 2]}
    assert tool.main(first + more) == 2
    assert "exists: choose another name, or replace it with --force" in capsys.readouterr().err
    assert tool.main([*first, *more, "--force", "--fp16"]) == 0
    assert "16 bits move the 100 best scores by up to" in capsys.readouterr().out


def test_a_run_becomes_a_folder_and_trains_again(tool: ModuleType, tmp_path: Path) -> None:
    """Train one epoch, convert to transformers and back, and go on with what came out: YAML and weights."""
    train = load_tool("train")
    config = write_micro_config(tmp_path)
    square = ["eval_spatial_size=[64,64]", "epoches=1"]
    for loader, op in (("train_dataloader", 2), ("val_dataloader", 0)):
        square.append(f"{loader}.dataset.transforms.ops.{op}.size=[64,64]")
    assert train.main(["-c", str(config), "-u", *square]) == 0
    assert tool.main([str(tmp_path / "run/best.pth"), str(tmp_path / "hf"), "--to", "huggingface"]) == 0
    assert json.loads((tmp_path / "hf/config.json").read_text())["id2label"] == {"0": "dark", "1": "light"}
    back = tmp_path / "back.safetensors"
    assert tool.main([str(tmp_path / "hf"), str(back), "--to", "safetensors"]) == 0
    card = read_card(back)
    assert card is not None
    assert card.metrics.keys() == {"AP"}
    assert train.main(["-c", str(back.with_suffix(".yml")), "--test-only", "-r", str(back)]) == 0
    again = ["-c", str(back.with_suffix(".yml")), "-t", str(back), "-u", f"output_dir={tmp_path / 'again'}"]
    assert train.main(again) == 0


def test_classes_in_an_order_of_their_own_survive(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``classes:`` of a data set may give its labels any order, so the ids of a label space need not ascend."""
    config = micro(tmp_path)
    for loader in ("train_dataloader", "val_dataloader"):
        config = config.with_values({f"{loader}.dataset.classes": ["light", "dark"]})
    space = LabelSpace(("light", "dark"), (2, 1))
    content = {"model": filled(config).state_dict(), "config": config.dump(), "label_space": space.to_dict()}
    torch.save(content, tmp_path / "in.pth")
    out, back = tmp_path / "out.safetensors", tmp_path / "back.pth"
    assert tool.main([str(tmp_path / "in.pth"), str(out), "--to", "safetensors"]) == 0
    assert "classes:  2: 2=light, 1=dark" in capsys.readouterr().out
    card = read_card(out)
    assert card is not None
    assert card.label_space == space.to_dict()
    assert tool.main([str(out), str(back), "--to", "official"]) == 0
    assert open_checkpoint(back).label_space == space
    check_classes(open_checkpoint(out), space)
    with pytest.raises(CheckpointError, match="was trained on the classes 2=light, 1=dark, the data has 1=dark, 2=lig"):
        check_classes(open_checkpoint(out), LabelSpace(("dark", "light"), (1, 2)))


def test_a_strange_folder_gets_a_config_that_runs(tool: ModuleType, tmp_path: Path) -> None:
    """A folder that we did not write: the config comes from its config.json and our recipe of the nearest size."""
    write_micro_folder(tmp_path / "hf", micro(tmp_path))
    (tmp_path / "hf" / "model.json").unlink()
    (tmp_path / "hf" / "isdfine.yml").unlink(missing_ok=True)
    weights = (tmp_path / "hf" / "model.safetensors").read_bytes()
    size = int.from_bytes(weights[:8], "little")
    head = json.loads(weights[8 : 8 + size])
    head["__metadata__"] = {"format": "pt"}
    text = json.dumps(head).encode()
    (tmp_path / "hf" / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + weights[8 + size :])
    out = tmp_path / "out.pth"
    assert tool.main([str(tmp_path / "hf"), str(out), "--to", "official"]) == 0
    source = open_checkpoint(out)
    assert source.label_space is not None
    assert source.label_space.names == ("dark", "light")
    config = isdfine.load_config(out.with_suffix(".yml"))
    assert config.get("DFINETransformer.hidden_dim") == 16
    assert config.get("optimizer.type") == "AdamW"
    assert config.get("train_dataloader.dataset.ann_file") == "./data/custom/annotations/train.json"
    data = write_coco(tmp_path / "again", categories=((0, "dark"), (1, "light")))
    updates = [f"{loader}_dataloader.dataset.{key}={value}" for loader in ("train", "val") for key, value in
               (("ann_file", data), ("img_folder", data.parent / "images"))]  # fmt: skip
    assert config.get("val_dataloader.dataset.transforms.ops.0") == {"type": "Resize", "size": [64, 64]}
    updates += ["val_dataloader.num_workers=0", "device=cpu"]
    arguments = ["-c", str(out.with_suffix(".yml")), "--test-only", "-r", str(out), "-u", *updates]
    assert load_tool("train").main(arguments) == 0


@pytest.mark.parametrize("name", ["rtdetr_r18vd", "rtdetrv2_r18vd"])
def test_a_strange_folder_of_rtdetr_gets_its_own_recipe(tool: ModuleType, name: str, tmp_path: Path) -> None:
    weights = to_huggingface(rtdetr_cases.filled(name).state_dict())
    content = config_to_huggingface(rtdetr_cases.official(name).data, num_classes=80)
    write_folder(tmp_path / "hf", content, weights, Card(config={}), image_size=(320, 320))
    (tmp_path / "hf" / "model.json").unlink()
    save_file(weights, tmp_path / "hf" / "model.safetensors")
    out = tmp_path / "out.pth"
    assert tool.main([str(tmp_path / "hf"), str(out), "--to", "official"]) == 0
    config = isdfine.load_config(out.with_suffix(".yml"))
    official = rtdetr_cases.official(name)
    assert config.get("RTDETR") == official.get("RTDETR")
    assert config.get("PResNet.depth") == 18
    assert config.get("optimizer.type") == "AdamW"
    assert not config.build("train_dataloader.collate_fn").restart
    assert config.get("val_dataloader.dataset.transforms.ops.0") == {"type": "Resize", "size": [320, 320]}
    image = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answer = load_detector(out, out.with_suffix(".yml")).model(image)
        reference = load_detector(tmp_path / "hf").model(image)
    assert torch.equal(answer.logits, reference.logits)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
@pytest.mark.parametrize("decoder", ["RTDETRTransformer", "RTDETRTransformerv2"])
def test_every_depth_has_a_recipe(tool: ModuleType, decoder: str, depth: int) -> None:
    config = isdfine.load_config(
        tool.recipe_for({decoder: {}, "PResNet": {"depth": depth}}), ["PResNet.pretrained=False"]
    )
    assert (config.get("RTDETR.decoder"), config.get("PResNet.depth")) == (decoder, depth)


def test_a_weights_file_cannot_have_code_imported(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = micro(tmp_path)
    content = {"model": filled(config).state_dict(), "config": config.dump() + "imports: [antigravity]\n"}
    torch.save(content, tmp_path / "in.pth")
    assert tool.main([str(tmp_path / "in.pth"), str(tmp_path / "out.pth"), "--to", "official"]) == 2
    assert "its config imports ['antigravity'], and code is not imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "x.pth", "--to", "official"], "absent: no such file or folder"),
        (["{hf}", "x.pth", "--to", "official", "--metric", "AP=high"], "--metric AP=high: give NAME=VALUE"),
        (
            ["{hf}", "x.pth", "--to", "official", "--classes", "absent.json"],
            "--classes absent.json: give coco, or a COCO",
        ),
        (["{hf}", "x.pth", "--to", "official", "--classes", "{hf}/config.json"], "no list of categories in it"),
        (["{hf}", "x.pth", "--to", "official", "--classes", "coco"], "80 class names .* weights with 2 classes"),
        (["{hf}", "x.pth", "--to", "official", "--ema"], "holds one set of weights"),
        (["{hf}", "x.pth", "--to", "official", "-u", "num_clases=3"], "num_clases"),
    ],
)
def test_wrong_arguments(
    tool: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_micro_folder(tmp_path / "hf", micro(tmp_path))
    assert tool.main([argument.format(hf=tmp_path / "hf") for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not (tmp_path / "x.pth").exists()
