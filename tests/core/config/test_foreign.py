# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Words of other projects in a config: other spellings, keys without effect, our names, other kinds of files."""

import inspect
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import isdfine
from isdfine import components
from isdfine.core.config.foreign import table
from isdfine.core.config.layers import RENAMED
from isdfine.core.config.plan import ACTIVE, SHARED, SLOTS
from isdfine.core.config.settings import RunSettings
from isdfine.core.errors import ConfigError
from isdfine.core.registry import REGISTRY

assert components
TABLE = table()

Load = Callable[..., isdfine.Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def read(text: str, *overrides: str, name: str = "run.yml") -> isdfine.Config:
        (tmp_path / name).write_text(text)
        return isdfine.load_config(tmp_path / name, overrides)

    return read


def test_the_tables_name_only_what_exists() -> None:
    assert {entry["ours"] for entry in TABLE["components"].values() if "ours" in entry} <= set(REGISTRY)
    assert not {*TABLE["components"], *TABLE["models"]} & set(REGISTRY)
    assert not set(TABLE["components"]) & set(TABLE["models"])
    settings = set(inspect.signature(RunSettings).parameters)
    assert set(RENAMED.values()) <= settings
    assert not {*TABLE["unused"], *RENAMED, *TABLE["instead"]} & {*settings, *SLOTS, *SHARED}
    for name, arguments in TABLE["unused_arguments"].items():
        assert not set(arguments) & set(inspect.signature(REGISTRY[name]).parameters)
    for name, argument in ACTIVE:
        assert argument in inspect.signature(REGISTRY[name]).parameters
    for dotted in TABLE["instead"]:
        name, _, argument = dotted.rpartition(".")
        assert not name or argument not in inspect.signature(REGISTRY[name]).parameters


@pytest.mark.parametrize(("other", "ours"), RENAMED.items())
def test_other_spellings_are_the_same_key(other: str, ours: str, load: Load) -> None:
    config = load(f"{other}: 3\n")
    assert getattr(config.settings, ours) == 3
    assert config.data == {ours: 3}
    assert config.notes == {}
    assert getattr(load(f"{ours}: 3\n", f"{other}=4").settings, ours) == 4
    with pytest.raises(ConfigError, match=rf"run.yml:1: {other}: the same setting as {ours}, which is there too: keep"):
        load(f"{other}: 3\n{ours}: 3\n")


def test_the_later_file_wins_in_any_spelling(load: Load, tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text("epoches: 72\n")
    assert load("__include__: [base.yml]\nepochs: 5\n").settings.epoches == 5
    (tmp_path / "base.yml").write_text("epochs: 72\n")
    assert load("__include__: [base.yml]\nepoches: 6\n").settings.epoches == 6
    with pytest.raises(ConfigError, match=r"run.yml:2: epoches: expected 1 or more, found 0"):
        load("__include__: [base.yml]\nepochs: 0\n")


@pytest.mark.parametrize("key", TABLE["unused"])
def test_keys_without_effect_are_said_once(key: str, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = load(f"seed: 1\n{key}: ~\n")
        config.with_values({"seed": 2}).with_values({"seed": 3})
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith(f"run.yml:2: {key}: accepted, but without effect here: {TABLE['unused'][key]}")


def test_an_override_without_effect_is_an_error(load: Load) -> None:
    batch = TABLE["unused"]["batch_size"]
    for key, reason in (("batch_size", batch), ("train_dataloader.pin_memory", "memory is pinned ")):
        with pytest.raises(ConfigError, match=re.escape(f"{key}: it has no effect here: {reason}")):
            load("train_dataloader: {type: DataLoader, dataset: {type: ImageFolder, img_folder: a}}\n", f"{key}=8")


def test_an_argument_at_the_top_level_is_sent_where_it_belongs(load: Load) -> None:
    with pytest.raises(
        ConfigError, match=r"hidden_dim: .*; it is an argument of DFINETransformer and of HybridEncoder"
    ):
        load("DFINE: {encoder: HybridEncoder}\nDFINETransformer: {num_layers: 3}\n", "hidden_dim=128")


def test_arguments_without_effect_are_said(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    text = """
    train_dataloader:
      type: DataLoader
      pin_memory: True
      dataset: {type: CocoDetection, img_folder: a, ann_file: b}
    DFINECriterion: {end_epoch: 72}
    """
    with caplog.at_level(logging.WARNING):
        load(inspect.cleandoc(text))
    assert [message.partition("run.yml:")[2] for message in caplog.messages] == [
        "3: train_dataloader.pin_memory: accepted, but without effect here: memory is pinned where the run uses a GPU",
        "5: DFINECriterion.end_epoch: accepted, but without effect here: "
        + TABLE["unused_arguments"]["DFINECriterion"]["end_epoch"],
    ]


OPTIONS = """
num_classes: 4
eval_spatial_size: [64, 64]
model: {type: DFINE, backbone: {type: HGNetv2, name: B0}, encoder: HybridEncoder, decoder: DFINETransformer}
DFINETransformer: {box_noise_scale: 0.4, num_classes: 5, eval_spatial_size: [64, 64]}
DFINECriterion: {share_matched_indices: True}
"""


def test_options_that_act_here_only_and_two_values_for_one_thing_are_said_once(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config = load(OPTIONS)
        config.with_values({"seed": 2})
    ignored = "the official code accepts this and works with"
    assert sorted(message.partition("run.yml:")[2] for message in caplog.messages) == [
        f"5: DFINETransformer.box_noise_scale: {ignored} 1.0; here it acts: boxes of denoising queries get that much "
        "noise",
        "5: DFINETransformer.num_classes: 5 (int) holds here, not the num_classes of the top level, 4 (int) "
        f"({config.origins['num_classes']}); the official code takes that one: keep one of the two",
        f"6: DFINECriterion.share_matched_indices: {ignored} False; here it acts: every layer is scored on the last "
        "layer's matches",
    ]
    assert config.build("DFINETransformer").score_head.layers[0].out_features == 5  # what the note says
    same = ["DFINETransformer.box_noise_scale=1", "DFINECriterion.share_matched_indices=False", "num_classes=5"]
    assert load(OPTIONS, *same).notes == {}
    assert load(OPTIONS, *same[:2], "num_classes=~").notes == {}


def test_only_one_process_says_it(
    load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert load("use_wandb: True\n").notes
    assert caplog.messages == []


@pytest.mark.parametrize("name", TABLE["models"])
def test_a_part_of_another_model_gets_no_part_of_dfine_for_it(name: str, load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"model: {name}\n{name}: {{depth: 50}}\ncriterion: {{type: {name}}}\n")
    for line in str(caught.value).splitlines():
        assert line.endswith(
            f"; {name} is a part of {TABLE['models'][name]}, "
            "another model than those here (docs/detr.md), which is not supported yet"
        )
        assert "did you mean" not in line


@pytest.mark.parametrize(
    "name", ["RTDETRTransformerV3", "RTDetrEncoderLayer", "DETRHead", "LWDETRPostProcessor", "DEIMTransformerV2"]
)
def test_nor_does_a_name_of_such_a_family_that_is_listed_nowhere(name: str, load: Load) -> None:
    with pytest.raises(ConfigError, match=f"; {name} looks like a part of .*, another model than those here") as caught:
        load(f"model: {name}\n")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["RTDETRTransformerV2", "RTDetrTransformerv2", "rtdetrtransformerv2"])
def test_a_name_of_ours_in_other_capitals_is_meant(name: str, load: Load) -> None:
    with pytest.raises(ConfigError, match="did you mean RTDETRTransformerv2"):
        load(f"model: {name}\n")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("imgsz", "the size of all images is input_size: [height, width]"),
        ("IMG_SIZE", "the size of all images is input_size: [height, width]"),
        ("batch", "images per step, over all processes, are train_dataloader.total_batch_size"),
        ("batch-size", "images per step, over all processes, are train_dataloader.total_batch_size"),
        ("lr0", "the learning rate is optimizer.lr, that of the backbone is in optimizer.params"),
        ("patience", "write early_stop: {patience: 20}, in evaluations"),
        ("workers", "set train_dataloader.num_workers and val_dataloader.num_workers"),
        ("weights", "start from a checkpoint with tuning (-t), continue one with resume (-r)"),
        ("data", "data are train_dataloader.dataset and val_dataloader.dataset (configs/dataset has examples)"),
        ("max_epochs", "write epochs"),
        ("max_det", "write DFINEPostProcessor.num_top_queries"),
        ("Compose.mosaic_prob", "mixing of images is not available yet: remove it"),
        ("DataLoader.workers", "write num_workers"),
        (
            "self_distill",
            "write distillers: [{type: GOLSD}], or {type: InterLayerDistillation} in its place, and "
            "{type: AttentionDistillation}; each takes weight, temperature and what else its section said",
        ),
    ],
)
def test_words_of_other_frameworks_get_ours(word: str, hint: str, load: Load) -> None:
    for text, overrides in (
        (f"seed: 1\n{word.replace('.', ': {')}: 3{'}' * word.count('.')}\n", ()),
        ("", (f"{word}=3",)),
    ):
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        assert str(caught.value).endswith(f"; {hint}")


def test_names_that_people_write_for_optimisers_and_models(load: Load) -> None:
    with pytest.raises(
        ConfigError, match=r"optimizer: no component is called 'Lion'; did you mean AdamW\? It is the near"
    ):
        load("optimizer: Lion\n")
    with pytest.raises(
        ConfigError, match=r"model: no component is called 'yolo11n.pt'; weights to start from are given"
    ):
        load("model: yolo11n.pt\n")


def test_nothing_else_is_accepted(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"run.yml:1: use_wandbb: no such top-level key or component"):
        load("use_wandbb: True\n")
    with pytest.raises(ConfigError, match=r"pin_memori: no such argument of DataLoader"):
        load("DataLoader: {pin_memori: True}\n")


@pytest.mark.parametrize("name", TABLE["components"])
def test_a_component_of_a_fork_is_named_with_ours(name: str, load: Load) -> None:
    component = TABLE["components"][name]
    with pytest.raises(ConfigError) as caught:
        load(f"model: {name}\n{name}: {{depth: 50}}\ncriterion: {{type: {name}}}\n")
    lines = [line.partition("run.yml:")[2] for line in str(caught.value).splitlines()]
    assert [line.split(": ")[:2] for line in lines] == [["1", "model"], ["2", name], ["3", "criterion"]]
    for line in lines:
        assert component["of"] in line
        assert component.get("ours", "leave it out") in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: DEIM",
            r"run.yml:1: model: no component is called 'DEIM'; DEIM is a part of DEIM and DEIMv2, "
            r"another model than those here \(docs/detr.md\), which is not supported yet$",
        ),
        (
            "postprocessor: PostProcessor",
            r"; did you mean DFINEPostProcessor\? PostProcessor is its name in DEIM and DEIMv2$",
        ),
        (
            "lrsheduler: flatcosine",
            r"no such top-level key or component; DEIM's schedule is lr_scheduler: \{type: Flat",
        ),
        (
            "BatchImageCollateFunction: {scale_ori_repeat: 3}",
            r"scale_ori_repeat: no such argument of .*; write base_size_repeat",
        ),
        ("HybridEncoder: {version: deim}", r"HybridEncoder.version: expected one of 'v1', 'v2', found 'deim'"),
        (
            "Mosaic: {output_size: 320}",
            r"component; Mosaic of DEIM and DEIMv2 is not available here yet: leave it out$",
        ),
    ],
)
def test_what_messages_say(text: str, message: str, load: Load) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text + "\n")
