# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion writes the same model, or nothing."""

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_cases import filled, micro
from isdfine.conversion import convert as module
from isdfine.conversion.convert import ConversionRequest as Request
from isdfine.conversion.convert import Form, convert, largest_differences
from isdfine.core.checkpoint.card import read_card
from isdfine.core.config import Config
from isdfine.core.errors import CheckpointError
from isdfine.data.label_space import MSCOCO, LabelSpace
from isdfine.deploy.preprocess import image_size_of
from isdfine.load import Checkpoint, build_with, open_checkpoint
from isdfine.zoo.huggingface.folder import HuggingFaceFolder

LABELS = LabelSpace(("dark", "light"), (3, 7))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The micro model's config."""
    return micro(tmp_path)


@pytest.fixture
def source(tmp_path: Path, config: Config) -> Checkpoint:
    """An official checkpoint of the micro model."""
    state = filled(config).state_dict()
    torch.save({"model": state, "ema": {"module": state}}, tmp_path / "micro.pth")
    return open_checkpoint(tmp_path / "micro.pth")


def weights_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    keys = {key for key in one if not key.endswith(("anchors", "valid_mask"))}
    return keys <= other.keys() and all(torch.equal(one[key], other[key].to(one[key].dtype)) for key in keys)


@pytest.mark.parametrize(("form", "name"), [("official", "m.pth"), ("safetensors", "m.safetensors")])
def test_a_full_disk_is_told_of_in_the_words_of_the_system(
    tmp_path: Path, source: Checkpoint, config: Config, form: Form, name: str
) -> None:
    target, (before, most) = tmp_path / "out" / name, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written \(File too large\): free space"):
            convert(source, config, Request(form, target))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert not list(target.parent.glob("*"))


def test_a_chain_through_all_forms(tmp_path: Path, source: Checkpoint, config: Config) -> None:
    folder, file, back = tmp_path / "hf", tmp_path / "ours.safetensors", tmp_path / "back.pth"
    wanted: dict[str, Any] = {"label_space": LABELS, "version": "1.2"}
    found = convert(source, config, Request("huggingface", folder, licence="MIT", **wanted))
    assert (found.logits, found.boxes, found.rounding) == (0, 0, None)
    names = {"config.json", "model.safetensors", "model.json", "preprocessor_config.json"}
    assert {one.name for one in folder.iterdir()} == names == {one.name for one in found.files}
    theirs = open_checkpoint(folder)
    assert (theirs.label_space, theirs.licence) == (LABELS, "MIT")
    assert (
        convert(theirs, config, Request("safetensors", file, metrics={"AP": 0.5}, with_yaml=True, **wanted)).logits == 0
    )
    card = read_card(file)
    assert card is not None
    assert (card.licence, card.metrics, card.version, card.names) == ("MIT", {"AP": 0.5}, "1.2", LABELS.names)
    assert card.source.startswith("transformers D-FINE folder (transformers unknown): hf, SHA-256 ")
    assert card.config["num_classes"] == 2
    assert (tmp_path / "ours.yml").is_file()
    ours = open_checkpoint(file)
    assert ours.form.startswith("isdfine safetensors with card (isdfine 1.2, ")
    assert convert(ours, config, Request("official", back, **wanted)).files == [back]
    last = open_checkpoint(back)
    assert weights_equal(source.weights, last.weights)
    assert last.weights.keys() == source.weights.keys()
    assert (last.label_space, last.licence, last.metrics) == (LABELS, "MIT", {"AP": 0.5})
    assert not list(tmp_path.glob(".converting*"))


def test_official_code_finds_its_entries(tmp_path: Path, source: Checkpoint, config: Config) -> None:
    convert(source, config, Request("official", tmp_path / "new.pth"))
    content = torch.load(tmp_path / "new.pth", weights_only=True)
    assert content["model"].keys() == content["ema"]["module"].keys() == filled(config).state_dict().keys()


def test_sixteen_bits(tmp_path: Path, source: Checkpoint, config: Config) -> None:
    found = convert(source, config, Request("safetensors", tmp_path / "half.safetensors", half=True))
    assert found.logits == 0
    assert found.rounding is not None
    assert 0 < found.rounding < 0.1
    weights = open_checkpoint(tmp_path / "half.safetensors").weights
    assert weights["decoder.enc_output.proj.weight"].dtype == torch.half
    assert weights["decoder.anchors"].dtype == torch.float32
    source.weights["decoder.enc_output.proj.weight"][0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"enc_output\.proj\.weight holds values beyond 65504: leave --fp16 out"):
        convert(source, config, Request("safetensors", tmp_path / "more.safetensors", half=True))


def test_nothing_is_written_over_and_nothing_is_left(
    tmp_path: Path, source: Checkpoint, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"mine")
    with pytest.raises(
        CheckpointError, match=r"out\.safetensors: exists: choose another name, or replace it with --force"
    ):
        convert(source, config, Request("safetensors", output))
    with monkeypatch.context() as patched:
        patched.setattr(module, "largest_differences", lambda *_: (0.5, float("nan")))
        with pytest.raises(
            CheckpointError, match=r"nothing was written: outputs differ by 0\.5 \(logits\) and nan \(boxes\)"
        ):
            convert(source, config, Request("safetensors", output, force=True))
    with monkeypatch.context() as patched:
        patched.setattr(module, "to_huggingface", lambda state: {"model.decoder.up": state["decoder.up"]})
        with pytest.raises(CheckpointError, match=r"no class heads among the weights"):
            convert(source, config, Request("huggingface", tmp_path / "hf"))
    assert output.read_bytes() == b"mine"
    assert {one.name for one in tmp_path.iterdir()} == {"data", "micro.yml", "micro.pth", "out.safetensors"}
    convert(source, config, Request("safetensors", output, force=True))
    assert weights_equal(source.weights, open_checkpoint(output).weights)


def test_a_folder_keeps_its_other_files(tmp_path: Path, source: Checkpoint, config: Config) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "README.md").write_text("mine")
    with pytest.raises(CheckpointError, match="exists"):
        convert(source, config, Request("huggingface", tmp_path / "hf"))
    found = convert(source, config, Request("huggingface", tmp_path / "hf", force=True, with_yaml=True))
    assert (tmp_path / "hf" / "README.md").read_text() == "mine"
    assert tmp_path / "hf" / "isdfine.yml" in found.files


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            Request("official", Path("x.safetensors")),
            r"--to official writes a file: give a name that ends in \.pth",
        ),
        (Request("safetensors", Path("x.pth")), r"give a name that ends in \.safetensors"),
        (Request("huggingface", Path("x.pth")), "--to huggingface writes a folder"),
        (
            Request("official", Path("x.pth"), LabelSpace(("a",), (1,))),
            r"1 class names \(a, ...\) for weights with 2",
        ),
    ],
)
def test_wrong_wishes(source: Checkpoint, config: Config, wanted: Request, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(source, config, wanted)


def test_a_config_of_another_class_count(source: Checkpoint, config: Config) -> None:
    with pytest.raises(
        CheckpointError, match=r"micro\.yml: num_classes is 80, the weights have 2 classes: .*num_classes=2"
    ):
        convert(source, config.with_values({"num_classes": 80}), Request("official", Path("x.pth")))


def test_the_kept_config_loads_nothing(source: Checkpoint, config: Config) -> None:
    given = config.with_values({"HGNetv2.pretrained": True, "tuning": "x.pth", "num_classes": 3})
    kept = build_with(source, given)[1]
    assert (kept.get("HGNetv2.pretrained"), kept.get("tuning"), kept.get("num_classes")) == (False, None, 2)
    assert image_size_of(config) == (64, 64)
    assert image_size_of(config.with_values({"eval_spatial_size": None})) == (640, 640)


def test_models_of_other_sizes_are_not_the_same(config: Config) -> None:
    other = config.with_values({"num_classes": 3})
    with pytest.raises(CheckpointError, match=r"logits of shape \(1, 8, 3\), the original with \(1, 8, 2\)"):
        largest_differences(config.build("model"), other.build("model"), (64, 64))


def test_names_alone_become_classes(tmp_path: Path) -> None:
    def space(names: Sequence[str], count: int) -> LabelSpace | None:
        content = {"id2label": {str(label): name for label, name in enumerate(names)}}
        weights = {"decoder.dec_score_head.0.weight": torch.zeros(count, 8)}
        folder = HuggingFaceFolder(content, weights, tmp_path / "model.safetensors", (64, 64))
        return Checkpoint(tmp_path, "", weights, folder.weights_file, folder=folder).label_space

    assert space([], 2) is None
    assert space(MSCOCO.names, 80) == MSCOCO
    assert space(["b", "a"], 2) == LabelSpace(("b", "a"), (0, 1))


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, source: Checkpoint, config: Config) -> None:
    for form, name in (("safetensors", "a.safetensors"), ("official", "a.pth")):
        (tmp_path / name).mkdir()
        with pytest.raises(CheckpointError, match=rf"{name}: is a folder, and --to {form} writes a file"):
            convert(source, config, Request(form, tmp_path / name, force=True))


def test_what_a_card_says_of_rounding_travels_on(tmp_path: Path, source: Checkpoint, config: Config) -> None:
    convert(source, config, Request("safetensors", tmp_path / "half.safetensors", half=True))
    path = tmp_path / "half.safetensors"
    steps: list[tuple[Form, str, bool]] = [
        ("huggingface", "hf", False), ("official", "a.pth", False), ("safetensors", "b.safetensors", True)
    ]  # fmt: skip
    for form, name, half in steps:
        convert(open_checkpoint(path), config, Request(form, tmp_path / name, half=half))
        path = tmp_path / name
        assert open_checkpoint(path).notes == "weights rounded to 16 bits"
