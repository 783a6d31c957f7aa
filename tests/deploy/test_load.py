# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A model comes back from every form with its classes and its preprocessing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detector_cases import LABELS, micro_checkpoint, micro_config
from hf_cases import filled, micro, write_micro_folder
from isdfine.core.checkpoint.card import Card, save_weights
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.core.registry import REGISTRY, register
from isdfine.data.label_space import MSCOCO
from isdfine.deploy.preprocess import recipe_of
from isdfine.load import load_detector


def test_a_run_and_its_safetensors(tmp_path: Path) -> None:
    path = micro_checkpoint(tmp_path, "fit")
    config = micro_config(tmp_path, "fit")
    card = Card(config=config.data, label_space=LABELS.to_dict())
    save_weights(filled(config).state_dict(), tmp_path / "m.safetensors", card)
    for one in (path, tmp_path / "m.safetensors"):
        loaded = load_detector(one)
        assert loaded.labels == LABELS
        assert recipe_of(loaded.config).rule == "fit"
        assert not loaded.model.training
        assert all(
            torch.equal(a, b) for a, b in zip(loaded.model.state_dict().values(), filled(config).state_dict().values())
        )
        assert loaded.postprocessor.num_top_queries == 10
        assert "criterion" not in loaded.config.data


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    write_micro_folder(tmp_path / "hf", micro(tmp_path))
    assert recipe_of(load_detector(tmp_path / "hf").config).size == (64, 96), "the card tells how the run evaluated"
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "model.json").unlink()
    save_file(weights, tmp_path / "hf" / "model.safetensors")
    loaded = load_detector(tmp_path / "hf")
    assert loaded.labels.names == ("dark", "light")
    recipe = recipe_of(loaded.config)
    assert (recipe.rule, recipe.size) == ("squash", (64, 64))


def test_official_checkpoints_need_a_config(tmp_path: Path) -> None:
    config = micro_config(tmp_path)
    torch.save({"model": filled(config).state_dict()}, tmp_path / "official.pth")
    with pytest.raises(CheckpointError, match=r"official D-FINE checkpoint.* holds no config: give the YAML file"):
        load_detector(tmp_path / "official.pth")
    for given in (config, tmp_path / "micro.yml"):
        assert load_detector(tmp_path / "official.pth", given).labels.names == ("class 0", "class 1")
    without = tmp_path / "data_says.yml"  # as configs/quickstart.yml: the number of classes is left to the data
    text = (tmp_path / "micro.yml").read_text()
    without.write_text("__include__: [micro.yml]\nnum_classes: ~\n")
    assert "num_classes" in text
    assert len(load_detector(tmp_path / "official.pth", without).labels) == 2
    with pytest.raises(ConfigError, match=r"absent\.yml"):
        load_detector(tmp_path / "official.pth", tmp_path / "absent.yml")


@pytest.mark.parametrize("rows", [80, 91])
def test_coco_models_know_their_classes(tmp_path: Path, rows: int) -> None:
    config = micro_config(tmp_path).with_values({"num_classes": 80, "remap_mscoco_category": True})
    weights = config.with_values({"num_classes": rows}).build("model").state_dict()
    torch.save({"model": weights}, tmp_path / "official.pth")
    labels = load_detector(tmp_path / "official.pth", config).labels
    if rows == 80:
        assert labels == MSCOCO
    else:  # rows are ids, as in DETR's checkpoints
        assert labels.category_ids == tuple(range(91))
        assert {labels.names[number] for number in (1, 12, 90)} == {"person", "(unused 12)", "toothbrush"}


def test_sections_elsewhere_and_none(tmp_path: Path) -> None:
    config = micro_config(tmp_path, "fit")
    data = config.data
    dataset = data["val_dataloader"]["dataset"]
    data["CocoDetection"] = {"transforms": dataset.pop("transforms")}
    from isdfine.core.config import Config
    from isdfine.core.config.node import locate

    assert recipe_of(Config(locate(data, "x"), "x")).rule == "fit"
    del data["val_dataloader"]
    assert recipe_of(Config(locate(data, "x"), "x")).size == (64, 96)


def test_the_global_registry_stays_open(tmp_path: Path) -> None:
    load_detector(micro_checkpoint(tmp_path))
    late = register(type("DefinedAfterLoading", (), {}))
    assert REGISTRY["DefinedAfterLoading"] is late


MODULE = """
from isdfine.core.registry import register
from isdfine.zoo.dfine.postprocess import DFINEPostProcessor

@register
class {name}(DFINEPostProcessor):
    "A part of one's own."
"""


def checkpoint_with_a_part_of_its_own(tmp_path: Path, name: str) -> tuple[Path, Path]:
    """A checkpoint whose post-processor is defined in a module of the user, and the YAML of its run."""
    path = micro_checkpoint(tmp_path)
    content = torch.load(path, weights_only=True)
    content["config"] = f"imports: [module_of_{name}]\n" + content["config"].replace("DFINEPostProcessor", name)
    torch.save(content, path)
    (tmp_path / "run.yml").write_text(content["config"])
    return path, tmp_path / "run.yml"


def test_code_that_a_weights_file_names_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = checkpoint_with_a_part_of_its_own(tmp_path, "PartNotRun")
    (tmp_path / "module_of_PartNotRun.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"modules module_of_PartNotRun of its author.*-c FILE") as error:
        load_detector(path)
    assert "\n" not in str(error.value)


def test_the_yaml_of_the_run_brings_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, config = checkpoint_with_a_part_of_its_own(tmp_path, "PartOfYaml")
    (tmp_path / "module_of_PartOfYaml.py").write_text(MODULE.format(name="PartOfYaml"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(load_detector(path, config).postprocessor).__name__ == "PartOfYaml"


@pytest.mark.parametrize("given", [False, True])
def test_modules_that_inference_does_not_need_may_be_absent(tmp_path: Path, given: bool) -> None:
    path = micro_checkpoint(tmp_path)
    content = torch.load(path, weights_only=True)
    content["config"] = "imports: [losses_of_theirs_absent]\n" + content["config"]
    torch.save(content, path)
    (tmp_path / "run.yml").write_text(content["config"])
    assert load_detector(path, tmp_path / "run.yml" if given else None).labels.names == ("dark", "light")


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    path = micro_checkpoint(tmp_path)
    content = torch.load(path, weights_only=True)
    content["label_space"] = {"names": ["a"], "category_ids": [1]}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="1 class names for weights with 2 classes: the file is damaged"):
        load_detector(path)


def test_files_that_a_backbone_started_from_are_not_needed(tmp_path: Path) -> None:
    """A run's config still names its ImageNet file, which is not where the checkpoint has come to."""
    config = micro_config(tmp_path)
    timm = {"name": "efficientnet_lite0", "out_indices": [3, 4], "weights": "absent.safetensors", "pretrained": True}
    own = {"TimmBackbone": timm, "HybridEncoder.in_channels": [112, 320], "DFINE.backbone": "TimmBackbone"}
    config = config.with_values(own)
    model = config.with_values({"TimmBackbone.weights": None, "TimmBackbone.pretrained": False}).build("model")
    torch.save(
        {"model": model.state_dict(), "config": config.dump(), "label_space": LABELS.to_dict()}, tmp_path / "b.pth"
    )
    loaded = load_detector(tmp_path / "b.pth")
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.state_dict().values(), model.state_dict().values()))
