# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: exit codes, messages, shorthands."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

import isdfine
from builders import load_tool, write_coco, write_micro_config
from isdfine import commands
from isdfine.solver.train import StopTraining

pytestmark = pytest.mark.usefixtures("small_backbone")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/train.py as a module."""
    return load_tool("train")


def test_threads_wait_passively_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    monkeypatch.setattr(commands, "COMMANDS", {"train": commands.Command("none", "")})
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        if given:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        with pytest.raises(ModuleNotFoundError):  # set before any module that may load torch, which reads it once
            commands.run("train")
        assert os.environ["OMP_WAIT_POLICY"] == expected
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_half_a_distributed_environment_is_one_message(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    assert tool.main(["-c", str(write_micro_config(tmp_path))]) == 2
    assert capsys.readouterr().err.startswith("error: the environment describes a distributed run but lacks WORLD_SIZE")


def test_pictures_beyond_the_limit_are_one_message(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    config = write_micro_config(tmp_path)
    assert tool.main(["-c", str(config), "--max-pixels", "1000", "-u", "num_visualized=0"]) == 2
    assert "exceeds limit of 1000 pixels" in capsys.readouterr().err
    assert tool.main(["-c", str(config), "--max-pixels", "0"]) == 2
    assert "max_pixels: expected 1 or more, found 0" in capsys.readouterr().err


def test_train_then_test_only_print_the_same_table(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_micro_config(tmp_path)
    assert tool.main(["-c", str(config), "-u", "epoches=1"]) == 0
    trained = capsys.readouterr().out
    assert "pictures:" in trained
    assert len(list((tmp_path / "run" / "pictures").glob("*.png"))) == 2
    assert (
        tool.main(["-c", str(tmp_path / "run" / "config.yml"), "--test-only", "-r", str(tmp_path / "run/best.pth")])
        == 0
    )
    table = capsys.readouterr().out
    assert table.strip()
    assert trained.startswith(table)


def test_print_config_resolves_and_builds_nothing(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_micro_config(tmp_path)
    assert tool.main(["-c", str(config), "--print-config", "--seed", "3", "-u", "epoches=7"]) == 0
    printed = tmp_path / "printed.yml"
    printed.write_text(capsys.readouterr().out)
    again = isdfine.load_config(printed)
    assert (again.settings.seed, again.settings.epoches) == (3, 7)
    assert not (tmp_path / "run").exists()


def test_what_a_config_has_to_say_is_a_warning_line(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_micro_config(tmp_path)
    config.write_text(f"{config.read_text()}use_wandb: True\n")
    assert tool.main(["-c", str(config), "--print-config"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"\d\d:\d\d:\d\d WARNING isdfine.core.config: .*micro.yml:\d+: use_wandb: accepted", line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-u", "epochess=3"], r"epochess.*did you mean epoches"),
        (["-u", "DFINETransformer.num_layer=3"], r"num_layer.*did you mean num_layers"),
        (["-u", "DFINETransformer.eval_idx=9"], r"DFINETransformer: eval_idx 9 is not one of the 2 decoder layers"),
        (["-u", "train_dataloader.total_batch_size=90"], r"train_dataloader.*8 samples do not fill one batch of 90"),
        (["-u", "epoches=many"], r"epoches: expected"),
        (["--epochs", "0"], r"epochs=0': epoches: expected 1 or more, found 0"),
        (["-u", "criterion=null", "evaluator=null"], r"evaluator: missing.*criterion: missing"),
        (["--test-only"], r"an evaluation needs a checkpoint: give it with -r"),
        (["--auto", "--test-only"], r"--auto chooses for a training run: leave it out with --test-only and"),
        (["-u", "train_dataloader.prefetch_factor=0"], r"prefetch_factor is 0: give 1 to 1000"),
        (["-r", "nowhere"], r"nowhere: no such file or folder, and no weights of this name"),
        (["-t", "nowhere.pth"], r"nowhere\.pth: no such checkpoint"),
        (["--tuning-classes", "coco"], r"--tuning-classes says whose classes a checkpoint given with -t knows: add -t"),
        (["-u", "num_classes=7"], r"num_classes.*7.*dark"),
        (
            ["-u", "DFINECriterion.num_classes=3"],
            r"DFINECriterion.num_classes is 3, but the data has 2 classes: remove",
        ),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert tool.main(["-c", str(write_micro_config(tmp_path)), *arguments]) == 2
    before, start, error = capsys.readouterr().err.partition("error: ")
    assert start
    assert all(" INFO " in line for line in before.splitlines())
    assert re.search(message, error, re.DOTALL), error


def test_bad_data_is_refused_before_the_output_folder_is_made(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_micro_config(tmp_path)
    (tmp_path / "data" / "images" / "003.png").unlink()
    assert tool.main(["-c", str(config)]) == 2
    assert "003.png" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_of_another_class_count_are_refused_with_both(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_micro_config(tmp_path)
    model = isdfine.load_config(config).build("model")
    weights = tmp_path / "weights.pth"
    torch.save(model.state_dict(), weights)
    three = write_coco(tmp_path / "three", categories=((1, "a"), (2, "b"), (3, "c")))
    data = [f"{part}_dataloader.dataset.{key}={value}" for part in ("train", "val")
            for key, value in (("ann_file", three), ("img_folder", three.parent / "images"))]  # fmt: skip
    assert tool.main(["-c", str(config), "--test-only", "-r", str(weights), "-u", *data]) == 2
    error = capsys.readouterr().err
    assert "dec_score_head" in error
    assert "2" in error
    assert "3" in error


def test_fine_tuning_from_a_file_without_names(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_micro_config(tmp_path)
    model = isdfine.load_config(config, ["num_classes=3"]).build("model")
    torch.save({"model": model.state_dict()}, tmp_path / "three.pth")
    (tmp_path / "three.txt").write_text("light\nmiddle\ndark\n")
    tuning = ["-t", str(tmp_path / "three.pth"), "--tuning-classes", str(tmp_path / "three.txt")]
    assert tool.main(["-c", str(config), "-u", "epoches=1", *tuning]) == 0
    report = json.loads((tmp_path / "run" / "load_report.json").read_text())
    assert report["classes"]["source_rows"] == [2, 0]
    settings = isdfine.load_config(tmp_path / "run" / "config.yml").settings
    assert (settings.tuning, settings.tuning_classes) == (None, None)
    capsys.readouterr()
    assert tool.main(["-c", str(config), "--output-dir", str(tmp_path / "no"), *tuning[:3], "three"]) == 2
    assert "'three' is no list of class names: choose coco, coco_91, objects365," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        (StopTraining("stopped by SIGTERM after step 7; everything is saved", 143), 143, ""),
        (KeyboardInterrupt(), 130, "interrupted: go on with -r from what was saved, if anything was\n"),
    ],
)
def test_a_run_that_was_stopped_has_the_exit_code_of_its_signal(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    ending: BaseException, code: int, message: str,
) -> None:  # fmt: skip
    def stop(_: object, *, exits: bool) -> None:
        assert exits
        raise ending

    monkeypatch.setattr("isdfine.solver.fit.fit", stop)
    config = write_micro_config(tmp_path)
    capsys.readouterr()
    assert tool.main(["-c", str(config)]) == code
    assert [
        line
        for line in capsys.readouterr().err.splitlines(keepends=True)
        if " INFO " not in line and " WARNING " not in line
    ] == ([message] if message else [])
    if isinstance(ending, KeyboardInterrupt):  # another one while the process ends is no traceback
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_the_first_line_comes_before_torch_is_imported(tool: ModuleType) -> None:
    program = f"import sys, {tool.__name__}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
    program = (
        f"import sys, {tool.__name__} as tool; tool.main = lambda given: print('torch' in sys.modules); tool.program()"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "isdfine.train: starting: " in child.stderr
    assert child.stdout.startswith("False")


def test_resuming_a_finished_run_says_so_and_how_to_go_on(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my run; ls"
    config = write_micro_config(tmp_path)
    assert tool.main(["-c", str(config), "--output-dir", str(folder), "-u", "epoches=1"]) == 0
    printed = capsys.readouterr().out
    judge = next(line for line in printed.splitlines() if line.startswith("judge it again:"))
    best = str(folder / "best.pth")
    assert shlex.split(judge)[3:] == ["isdfine", "val", "-r", best]
    assert tool.main(["--test-only", "-r", best]) == 0
    assert capsys.readouterr().out in printed  # the same table
    assert tool.main(["-c", str(folder / "config.yml"), "-r", str(folder)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"nothing to train: {folder} is finished (1 epochs done, epochs is 1); to go on: isdfine ")
    more = shlex.split(line.split("to go on: ")[1])[2:]
    assert more[-2:] == ["-u", "epochs=2"]
    assert tool.main(more) == 0
    assert "epoch 1: AP " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["-c", str(config), "-r", "a", "-t", "b"])
    assert tool.main(["-c", str(config), "--output-dir", str(folder)]) == 2
    assert f"continue it with -r '{folder}', or choose" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-t", "-r"])
def test_a_url_is_refused_as_one(
    tool: ModuleType, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "https://example.org/a b/dfine_n.pth?x=1"
    assert tool.main(["-c", str(write_micro_config(tmp_path)), option, url]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line == (
        f"error: {url} is a URL, and nothing is downloaded here: fetch it first (curl -LO '{url}'), "
        "then give the path of the file"
    )
