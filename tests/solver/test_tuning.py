# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning the micro model from checkpoints of other classes, of none, of a backbone alone, of another size."""

import copy
import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import isdfine
from builders import write_coco, write_micro_config
from golden_cases import load_json
from isdfine.core.checkpoint import weights_in
from isdfine.core.checkpoint.card import Card, save_weights
from isdfine.core.checkpoint.weights import LoadReport
from isdfine.core.config.settings import RunSettings
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.data.classes import class_list
from isdfine.data.label_space import MSCOCO, LabelSpace
from isdfine.load import Checkpoint, open_checkpoint
from isdfine.nn.backbone.timm import TimmBackbone
from isdfine.solver.fit import make_folder
from isdfine.solver.solver import Evaluation, check_classes
from isdfine.solver.training import Training
from isdfine.solver.tuning import ClassTables, tune
from isdfine.zoo.huggingface.weights import to_huggingface

HEADS = [
    *(f"decoder.{head}.{what}" for head in ("enc_score_head", "dec_score_head.0", "dec_score_head.1")
      for what in ("weight", "bias")),
    "decoder.denoising_class_embed.weight",
]  # fmt: skip
PRIOR = -math.log(99)


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> isdfine.Config:
    """The micro run; only its model is built here."""
    return isdfine.load_config(write_micro_config(tmp_path_factory.mktemp("micro"), images=1))


def space_of(names: Sequence[str]) -> LabelSpace:
    return LabelSpace(tuple(names), tuple(range(1, len(names) + 1)))


def build(config: isdfine.Config, classes: int, **values: Any) -> nn.Module:
    """A freshly built micro model."""
    model: nn.Module = config.with_values({"num_classes": classes, **values}).build("model")
    return model


def weights(config: isdfine.Config, classes: int, **values: Any) -> dict[str, Tensor]:
    """State dict of a model in which every value differs from a fresh one's."""
    model = build(config, classes, **values)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter += torch.rand_like(parameter)
        model.state_dict()[HEADS[-1]][-1] = 0
    return model.state_dict()


class Tuned:
    """A fresh model for some classes that starts from a checkpoint's content."""

    def __init__(
        self,
        config: isdfine.Config,
        names: Sequence[str],
        content: dict[str, Any] | Checkpoint,
        file: str = "o.pth",
        **settings: Any,
    ) -> None:
        values = {key: settings.pop(key) for key in list(settings) if "." in key}
        self.model = build(config, len(names), **values)
        self.before = copy.deepcopy(self.model.state_dict())
        tables = ClassTables.of(RunSettings(**settings))
        if not isinstance(content, Checkpoint):
            content = Checkpoint(Path(file), "given", weights_in(content, file), Path(file), content)
        self.report: LoadReport = tune(self.model, content, space_of(names), tables)

    def check(self, theirs: dict[str, Tensor], rows: Sequence[int | None]) -> None:
        check_rows(self.model, self.before, theirs, rows)


def check_rows(
    model: nn.Module, before: dict[str, Tensor], theirs: dict[str, Tensor], rows: Sequence[int | None]
) -> None:
    """Every class row is bit-equal to its source row, or as freshly initialised; everything else is loaded."""
    state = model.state_dict()
    for key in HEADS:
        assert len(state[key]) == len(rows) + ("denoising" in key)
        for row, source in enumerate(rows):
            assert torch.equal(state[key][row], before[key][row] if source is None else theirs[key][source]), (key, row)
            if source is None and key.endswith("bias"):
                assert state[key][row].item() == pytest.approx(PRIOR)
    assert torch.equal(state[HEADS[-1]][-1], torch.zeros(16))
    for key, value in state.items():
        if key not in HEADS and "anchors" not in key and "valid_mask" not in key:
            assert torch.equal(value, theirs[key]), key


SEVEN = ["zeppelin", "tv", "PERSON", "sofa", "traffic_light", "Other Balls", "camel"]
SEVEN_ROWS = [None, 37, 0, 50, 40, 156, 307]


@pytest.mark.parametrize("form", ["ours", "card", "objects365", "objects365_366"])
def test_objects365_to_seven_shuffled_classes(micro: isdfine.Config, tmp_path: Path, form: str) -> None:
    objects = class_list("objects365")
    count = 366 if form == "objects365_366" else 365
    theirs = weights(micro, count)
    if form == "ours":
        run = Tuned(micro, SEVEN, {"model": theirs, "label_space": objects.to_dict()})
    elif form == "card":
        file = tmp_path / "objects.safetensors"
        save_weights(theirs, file, Card(config={}, label_space=objects.to_dict()))
        run = Tuned(micro, SEVEN, open_checkpoint(file))
    else:
        run = Tuned(micro, SEVEN, {"ema": {"module": theirs}}, tuning_classes=form)
    rows = [None if row is None else row + count - 365 for row in SEVEN_ROWS]
    run.check(theirs, rows)
    report = run.report
    assert {one.name for one in report.mapped} == set(HEADS)
    assert {(one.rows, one.total) for one in report.mapped} == {(6, 7)}
    assert not report.missing + report.unexpected + report.mismatched
    table = report.table()
    assert "  same class   PERSON, traffic_light, Other Balls" in table
    assert f"  class        sofa <- Couch (row {50 + count - 365})" in table
    assert "  new class    zeppelin" in table
    assert report.to_dict()["classes"]["source_rows"] == rows


def test_a_random_subset_of_objects365_in_random_order(micro: isdfine.Config) -> None:
    names = class_list("objects365").names
    choice = random.Random(3).sample(range(365), 7)
    theirs = weights(micro, 365)
    ours = [names[row].upper().replace(" ", "-") for row in choice]
    Tuned(micro, ours, theirs, tuning_classes="objects365").check(theirs, choice)


def test_ours_trained_on_other_classes_of_the_same_number(micro: isdfine.Config) -> None:
    theirs = weights(micro, 2)
    content = {"model": theirs, "label_space": space_of(["dark", "light"]).to_dict()}
    run = Tuned(micro, ["Light", "night"], content)
    run.check(theirs, [1, None])
    assert "same class   Light" in run.report.table()


def test_equal_classes_are_taken_as_they_are(micro: isdfine.Config) -> None:
    theirs = weights(micro, 2)
    saved = LabelSpace(("dark", "light"), (5, 9))  # other ids, same classes
    run = Tuned(micro, ["dark", "light"], {"model": theirs, "label_space": saved.to_dict()})
    run.check(theirs, [0, 1])
    assert run.report.complete
    assert not run.report.notes


def test_from_coco_to_objects365(micro: isdfine.Config) -> None:
    theirs, coco, objects = weights(micro, 80), class_list("coco"), class_list("objects365_366")
    official: list[int] = load_json("configs.json")["common"]["coco_to_obj365_ids"]["ids"]
    rows = {row + 1: index for index, row in enumerate(official)}
    run = Tuned(micro, objects.names, theirs, tuning_classes="coco")
    run.check(theirs, [rows.get(index) for index in range(366)])
    back = weights(micro, 366)
    Tuned(micro, coco.names, back, tuning_classes="objects365_366").check(back, [row + 1 for row in official])


@pytest.mark.parametrize(
    ("count", "advice"),
    [
        (80, "add --tuning-classes coco .*if these are the classes of coco"),
        (366, "add --tuning-classes objects365_366 .*if these are the classes of objects365_366"),
        (20, "add --tuning-classes voc"),
        (5, r"add --tuning-classes FILE \(with its 5 names\)"),
    ],
)
def test_a_file_without_names_starts_the_heads_anew_and_says_what_to_add(
    micro: isdfine.Config, caplog: pytest.LogCaptureFixture, count: int, advice: str
) -> None:
    theirs = weights(micro, count)
    run = Tuned(micro, ["dark", "light"], {"ema": {"module": theirs}}, "official.pth")
    run.check(theirs, [None, None])
    assert {one.name for one in run.report.mismatched} == set(HEADS)
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert f"its class heads have {count} rows, the data has 2 classes: all class rows start anew" in warning
    assert re.search(advice, warning)
    assert re.search(advice, run.report.table())


@pytest.mark.parametrize("name", ["objects365_366", "objects365"])
def test_official_files_without_names_between_objects365_and_coco(micro: isdfine.Config, name: str) -> None:
    # `-c dfine_hgnetv2_n_obj2coco.yml -t dfine_n_obj365.pth`, as the official code maps them
    official: list[int] = load_json("configs.json")["common"]["coco_to_obj365_ids"]["ids"]
    objects, shift = class_list(name).names, len(class_list(name)) - 365
    theirs = weights(micro, len(objects))
    run = Tuned(micro, class_list("coco").names, {"ema": {"module": theirs}})
    run.check(theirs, [row + shift for row in official])
    assert run.report.notes == [
        f"the file names no classes; its {len(objects)} rows were taken as those of {name}, which has all classes of "
        "the data; if they are others, set tuning_classes to a file with their names"
    ]
    coco = weights(micro, 80)
    rows = {row + shift: index for index, row in enumerate(official)}
    run = Tuned(micro, objects, coco)
    run.check(coco, [rows.get(index) for index in range(len(objects))])
    assert "its 80 rows were taken as those of coco, whose classes are all in the data; if" in run.report.notes[0]


def test_files_whose_rows_are_ids_of_coco(micro: isdfine.Config) -> None:
    """`-t` with a checkpoint of DETR and its successors: 91 rows, of which 80 are classes."""
    theirs = weights(micro, 91)
    run = Tuned(micro, MSCOCO.names, theirs)
    run.check(theirs, list(MSCOCO.category_ids))
    assert "its 91 rows were taken as those of coco_91, which has all classes of the data" in run.report.notes[0]


def test_a_file_without_names_and_data_of_some_of_its_classes(
    micro: isdfine.Config, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, coco = weights(micro, 80), class_list("coco").names
    Tuned(micro, ["dog", "person"], theirs).check(theirs, [16, 0])
    shuffled = random.Random(5).sample(range(80), 80)  # as many classes, in another order
    Tuned(micro, [coco[row] for row in shuffled], theirs).check(theirs, shuffled)
    assert not [one for one in caplog.records if one.levelname == "WARNING"]
    Tuned(micro, ["dog", "zeppelin"], theirs).check(theirs, [None, None])  # another list, for all we know


def test_rows_without_names_but_of_the_right_number_are_taken(micro: isdfine.Config) -> None:
    theirs = weights(micro, 2)
    run = Tuned(micro, ["dark", "light"], theirs)
    run.check(theirs, [0, 1])
    assert run.report.notes == [
        "the file names no classes; its 2 rows were taken as they are, which is right only if its classes are those of "
        "the data in the same order; else add --tuning-classes FILE (with its 2 names)"
    ]


def test_category_ids_as_rows(micro: isdfine.Config, tmp_path: Path) -> None:
    # the official habit: num_classes is the largest id + 1
    old = write_coco(tmp_path / "old", images=1, categories=((2, "a"), (4, "b")))
    theirs = weights(micro, 5)
    Tuned(micro, ["b", "new"], theirs, tuning_classes=str(old)).check(theirs, [4, None])


def test_synonyms_of_ones_own(micro: isdfine.Config, tmp_path: Path) -> None:
    (tmp_path / "table.yml").write_text("groups:\n  - [leucocyte, WBC]\n")
    theirs = weights(micro, 2)
    content = {"model": theirs, "label_space": space_of(["television", "wbc"]).to_dict()}
    Tuned(micro, ["tv", "leucocyte"], content).check(theirs, [0, None])
    own_table = Tuned(micro, ["tv", "leucocyte"], content, class_synonyms=str(tmp_path / "table.yml"))
    own_table.check(theirs, [None, 1])


def test_an_agnostic_selection_score_is_no_class(micro: isdfine.Config) -> None:
    agnostic = {"DFINETransformer.query_select_method": "agnostic"}
    theirs = weights(micro, 80, **agnostic)
    run = Tuned(micro, ["tv", "x"], theirs, tuning_classes="coco", **agnostic)
    assert "decoder.enc_score_head.weight" in run.report.loaded
    assert {one.name for one in run.report.mapped} == set(HEADS[2:])
    run = Tuned(micro, ["tv", "x"], theirs, tuning_classes="coco")
    assert [one.name for one in run.report.mismatched] == HEADS[:2]
    assert torch.equal(run.model.state_dict()[HEADS[2]][0], theirs[HEADS[2]][62])
    single = Tuned(micro, ["tv"], theirs, tuning_classes="coco")  # one class: the shape of the agnostic score fits
    assert [one.name for one in single.report.mismatched] == HEADS[:2]


def test_a_folder_of_transformers(micro: isdfine.Config, tmp_path: Path) -> None:
    theirs = weights(micro, 2)
    save_file(
        to_huggingface({key: value.contiguous() for key, value in theirs.items()}), tmp_path / "model.safetensors"
    )
    labels = {"0": "tvmonitor", "1": "cat"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "d_fine", "id2label": labels}))
    content = open_checkpoint(tmp_path)
    Tuned(micro, ["Cat", "dog", "TV"], content).check(theirs, [1, None, 0])
    check_classes(content, space_of(["tv", "cat"]))
    with pytest.raises(CheckpointError, match="trained on the classes tvmonitor, cat, the data has 1=cat, 2=tv: use"):
        check_classes(content, space_of(["cat", "tv"]))


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_alone(micro: isdfine.Config, prefix: str) -> None:
    theirs = {key: value for key, value in weights(micro, 2).items() if key.startswith("backbone.")}
    head = {"last_conv.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}
    content = {prefix + key.removeprefix("backbone."): value for key, value in theirs.items()} | head
    run = Tuned(micro, ["dark", "light"], content, "PPHGNetV2_B0_stage1.pth", tuning_classes="coco")
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, theirs[key] if key.startswith("backbone.") else run.before[key]), key
    assert run.report.unexpected == list(head)
    assert run.report.notes == [
        "the file holds a backbone only: encoder and decoder start anew",
        "tuning_classes coco was not needed: PPHGNetV2_B0_stage1.pth has no class heads",
    ]


def test_files_of_other_models_are_refused(micro: isdfine.Config) -> None:
    wide = {"HGNetv2.name": "B3", "HybridEncoder.hidden_dim": 32, "DFINETransformer.hidden_dim": 32,
            "DFINETransformer.feat_channels": [32, 32], "HybridEncoder.in_channels": [1024, 2048]}  # fmt: skip
    other = build(micro, 2, **wide)
    with pytest.raises(CheckpointError, match=r"o.pth is of another architecture: \d+ of the \d+ tensors of DFINE"):
        Tuned(micro, ["a", "b"], other.state_dict())
    with pytest.raises(CheckpointError, match=r"b3.pth holds a backbone only, and \d+ of the \d+ tensors of HGN"):
        Tuned(micro, ["a", "b"], other.get_submodule("backbone").state_dict(), "b3.pth")


def test_names_that_do_not_fit_the_rows(micro: isdfine.Config, tmp_path: Path) -> None:
    theirs = weights(micro, 7)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    with pytest.raises(
        CheckpointError,
        match=r"names.txt has 3 names, but the class heads of seven.pth have 7 rows: give a file with 7 names, or null",
    ):
        Tuned(micro, ["a"], theirs, "seven.pth", tuning_classes=str(tmp_path / "names.txt"))
    with pytest.raises(CheckpointError, match=r"objects365 has 365 names, but .* have 80 rows: coco has 80"):
        Tuned(micro, ["a"], weights(micro, 80), tuning_classes="objects365")
    damaged = {"model": theirs, "label_space": space_of(["a"]).to_dict()}
    with pytest.raises(CheckpointError, match=r"names 1 classes, but its class heads have 7 rows: the file is damaged"):
        Tuned(micro, ["a"], damaged)
    repeated = {"names": ["a", "b"], "category_ids": [1, 1]}
    wrong = [{"names": ["a"]}, {"names": ["a", "b"], "category_ids": [1]}, {"names": 3, "category_ids": [1]}, repeated]
    for broken in wrong:
        with pytest.raises(
            CheckpointError, match=r"o.pth: its label_space cannot be read .*names and as many unique c"
        ):
            Tuned(micro, ["a"], {"model": theirs, "label_space": broken})


def test_names_that_are_equal_but_for_case_or_separators(micro: isdfine.Config) -> None:
    content = {"model": weights(micro, 3), "label_space": space_of(["k", "K", "x"]).to_dict()}
    assert Tuned(micro, ["K", "k", "q"], content).report.classes.rows == (1, 0, None)
    with pytest.raises(CheckpointError, match=r"class '.k' could take the row of 'k' or of 'K', which o.pth both has"):
        Tuned(micro, [" k"], content)


def test_names_in_the_file_win_over_the_setting(micro: isdfine.Config) -> None:
    theirs = weights(micro, 2)
    content = {"model": theirs, "label_space": space_of(["light", "dark"]).to_dict()}
    run = Tuned(micro, ["dark", "light"], content, tuning_classes="coco")
    run.check(theirs, [1, 0])
    assert run.report.notes == ["tuning_classes coco was not needed: o.pth names its classes itself"]


def test_a_run_starts_from_the_tuned_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_micro_config(tmp_path)
    config, file = isdfine.load_config(path), tmp_path / "o.pth"
    theirs = weights(config, 3)
    content = {"model": theirs, "label_space": space_of(["LIGHT", "x", "dark"]).to_dict()}
    torch.save(content, file)
    reads, load = [], torch.load

    def counted(*arguments: Any, **named: Any) -> Any:
        reads.append(arguments)
        return load(*arguments, **named)

    monkeypatch.setattr(torch, "load", counted)
    run = Training(isdfine.load_config(path, [f"tuning={file}"]))
    before = copy.deepcopy(run.model.state_dict())
    run.tune_from(file)
    assert len(reads) == 1
    check_rows(run.model, before, theirs, [2, 0])
    for key, value in run.judged_model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[key]), key
    assert not run.optim.optimizer.state
    assert (run.progress.epoch, run.progress.step) == (0, 0)
    assert not run.folder.path.exists()  # nothing is written before the run begins
    make_folder(run)
    saved = json.loads(run.folder.load_report.read_text())
    assert saved["classes"] == {"model": ["dark", "light"], "source": ["dark", "LIGHT"], "source_rows": [2, 0]}
    assert saved["tensors"]["decoder.enc_score_head.bias"] == {
        "status": "mapped", "detail": "2 of 2 rows by class name", "rows": 2, "of": 2,
    }  # fmt: skip
    assert set(saved["tensors"]) == set(theirs)
    assert not list(run.folder.path.glob("*.tmp"))


@pytest.mark.parametrize("key", ["HGNetv2.pretrained", "DFINE.backbone.pretrained"])
def test_a_backbone_file_is_not_read_where_a_checkpoint_is_given(tmp_path: Path, key: str) -> None:
    path, values = write_micro_config(tmp_path, images=1), [f"{key}=True"]
    if "backbone" in key:
        values.insert(0, "DFINE.backbone={type: HGNetv2}")
    with pytest.raises(CheckpointError, match="no such file with ImageNet weights"):
        Evaluation(isdfine.load_config(path, values))
    torch.save({"model": weights(isdfine.load_config(path), 2)}, tmp_path / "o.pth")
    for start in ("resume", "tuning"):
        run = Evaluation(isdfine.load_config(path, [*values, f"{start}={tmp_path / 'o.pth'}"]))
        assert run.load(tmp_path / "o.pth").complete


def test_neither_are_weights_of_timm(tmp_path: Path) -> None:
    path = write_micro_config(tmp_path, images=1)
    channels = TimmBackbone("test_resnet", out_indices=[3, 4]).channels
    values = [
        "DFINE.backbone={type: TimmBackbone, name: test_resnet, out_indices: [3, 4], weights: gone.safetensors}",
        f"HybridEncoder.in_channels={list(channels)}",
    ]
    with pytest.raises(CheckpointError, match=r"gone.safetensors"):
        Evaluation(isdfine.load_config(path, values))
    model = isdfine.load_config(path, [*values, "DFINE.backbone.weights=null", "num_classes=2"]).build("model")
    torch.save({"model": model.state_dict()}, tmp_path / "o.pth")
    run = Evaluation(isdfine.load_config(path, [*values, f"resume={tmp_path / 'o.pth'}"]))
    assert run.load(tmp_path / "o.pth").complete


def test_a_mistyped_list_is_found_before_the_data_is_read(tmp_path: Path) -> None:
    path = write_micro_config(tmp_path, images=1)
    (tmp_path / "data" / "annotations.json").unlink()
    with pytest.raises(ConfigError, match=r"'cocoo' is no list of class names \(did you mean coco\?\)"):
        Training(isdfine.load_config(path, ["num_classes=2", "tuning_classes=cocoo"]))
    with pytest.raises(ConfigError, match=r"class_synonyms gone.yml: no such file"):
        Training(isdfine.load_config(path, ["num_classes=2", "class_synonyms=gone.yml"]))


def test_judging_reads_once_and_refuses_other_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = isdfine.load_config(write_micro_config(tmp_path, images=1))
    run, theirs = Evaluation(config), weights(config, 2)
    reads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *some, **named: (reads.append(some), load(*some, **named))[1])
    torch.save({"model": theirs, "label_space": run.label_space.to_dict()}, tmp_path / "o.pth")
    assert run.load(tmp_path / "o.pth").complete
    assert len(reads) == 1
    card = Card(config={}, label_space=space_of(["cat", "dog"]).to_dict())
    save_weights(theirs, tmp_path / "o.safetensors", card)
    with pytest.raises(CheckpointError, match="trained on the classes 1=cat, 2=dog, the data has 1=dark, 2=light"):
        run.load(tmp_path / "o.safetensors")
