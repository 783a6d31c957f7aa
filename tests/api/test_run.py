# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Train, evaluate and detect in a few lines; what the process was before, it is afterwards."""

import logging
import random
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import isdfine
from builders import write_micro_config
from isdfine.api.run import config_of
from isdfine.api.session import overrides
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.solver.callbacks import EpochListener

pytestmark = pytest.mark.usefixtures("small_backbone")

FAST, ONE = ["num_visualized=0"], ["num_visualized=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    return write_micro_config(folder)


@pytest.fixture(scope="module")
def run(config: Path, folder: Path) -> isdfine.Run:
    return isdfine.train(
        config, epochs=1, output_dir=folder / "first", device="cpu", seed=3, update=["num_visualized=1"]
    )


def test_a_run_says_what_it_ended_with(run: isdfine.Run, folder: Path) -> None:
    assert (run.folder, run.best, run.last) == (folder / "first", folder / "first/best.pth", folder / "first/last.pth")
    assert len(list((run.folder / "pictures").iterdir())) == 1
    assert repr(run).startswith(f"Run('{folder / 'first'}', 1 epochs, AP ")
    assert [record["AP"] for record in run.history()] == [run.metrics["AP"]]
    assert len(run.history("train")) == 2
    settings = isdfine.load_config(run.config).settings
    assert (settings.seed, settings.epoches) == (3, 1)


def test_a_run_is_judged_again_by_its_file_alone(run: isdfine.Run, folder: Path) -> None:
    assert isdfine.evaluate(run).to_dict() == run.result.to_dict()
    assert isdfine.evaluate(run.best, device="cpu").table() == run.table()
    weights = folder / "weights.pth"
    torch.save({"model": torch.load(run.best, weights_only=True)["model"]}, weights)
    with pytest.raises(ConfigError, match=r"weights\.pth: holds no config: give the YAML file it was trained with"):
        isdfine.evaluate(weights)
    assert isdfine.evaluate(weights, config=run.config).num_images == 8


def test_more_epochs_go_on_with_the_schedule_of_the_run(run: isdfine.Run, tmp_path: Path) -> None:
    official = isdfine.load_config("dfine_hgnetv2_n_coco.yml", ["epochs=12"])
    state = torch.load(run.best, weights_only=True)
    torch.save({**state, "config": official.dump()}, tmp_path / "last.pth")
    for start in (tmp_path, tmp_path / "last.pth"):
        config = isdfine.load_config(config_of(start), [f"resume={start}", "epochs=20"])
        assert (config.get("epoches"), config.get("train_dataloader.collate_fn.stop_epoch")) == (20, 11)


def test_code_is_not_run_because_a_checkpoint_says_so(run: isdfine.Run, folder: Path) -> None:
    state = torch.load(run.best, weights_only=True)
    torch.save({**state, "config": state["config"] + "\nimports: [this]\n"}, folder / "foreign.pth")
    before = "this" in sys.modules
    with pytest.raises(
        ConfigError, match=r"foreign\.pth: its config imports \['this'\], and code is not run .* the run, .*\(-c, con"
    ):
        isdfine.evaluate(folder / "foreign.pth")
    assert ("this" in sys.modules) == before


def test_a_run_without_json_lines_has_no_history(run: isdfine.Run, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"empty.metrics.jsonl: not there: JsonLines, .* among the writers$"):
        isdfine.Run(folder / "empty", run.result, 1).history()


def test_any_letter_of_a_path_reaches_the_config() -> None:
    path = "r\u00e4um \U0001f4c1 'a' \\ b=c"
    assert isdfine.load_config("quickstart.yml", overrides(output_dir=path)).settings.output_dir == path


def test_a_run_detects(run: isdfine.Run, folder: Path) -> None:
    detections = run.detector(device="cpu").detect(folder / "data" / "images" / "000.png", threshold=0)
    assert len(detections.scores) == 10


def test_the_process_is_as_before(config: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger, handlers = logging.getLogger("isdfine"), (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    pixels, threads = Image.MAX_IMAGE_PIXELS, torch.get_num_threads()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = torch.rand(1).item(), random.random(), np.random.random()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    loaded = isdfine.load_config(config, FAST)
    isdfine.train(loaded, epochs=1, output_dir=folder / "second", update=["max_pixels=100000"])
    assert (torch.rand(1).item(), random.random(), np.random.random()) == expected
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert (Image.MAX_IMAGE_PIXELS, torch.get_num_threads()) == (pixels, threads)
    assert (loaded.settings.epoches, loaded.settings.max_pixels) == (2, None)


def test_errors_are_exceptions_and_the_next_run_works(config: Path, run: isdfine.Run, folder: Path) -> None:
    for error, message, given in (
        (ConfigError, "epochs=0': epoches: expected 1 or more, found 0", {"epochs": 0}),
        (ConfigError, r"holds another run .*: continue it with -r", {"output_dir": run.folder}),
        (CheckpointError, "nowhere: no such file or folder, and no weights of this name", {"weights": "nowhere"}),
        (ConfigError, r"set together with resume", {"weights": run.best, "resume": run.last}),
        (ConfigError, r'give a list of texts, as in update=\["optimizer', {"update": "epochs=1"}),
        (
            ConfigError,
            r"optimizer: Invalid beta parameter",
            {"update": ["optimizer.betas=[2, 3]"], "output_dir": folder / "no"},
        ),
    ):
        with pytest.raises(error, match=message):
            isdfine.train(config, **given)  # type: ignore[arg-type]
    runs: list[isdfine.Run] = []
    given = {"weights": run.best, "epochs": 1, "output_dir": folder / "tuned", "update": FAST}
    thread = threading.Thread(target=lambda: runs.append(isdfine.train(config, **given)))  # which takes no signals
    thread.start()
    thread.join()
    assert runs[0].metrics["AP"] >= 0


def test_an_interrupted_run_is_saved_and_goes_on_to_the_same_bits(
    config: Path, run: isdfine.Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(**given: str) -> isdfine.Run:
        where = folder / "part"
        return isdfine.train(config, epochs=1, output_dir=where, device="cpu", seed=3, update=FAST, **given)  # type: ignore[arg-type]

    call = EpochListener.__call__

    def interrupted(listener: EpochListener, report: object) -> None:
        signal.raise_signal(signal.SIGINT)
        call(listener, report)  # type: ignore[arg-type]

    monkeypatch.setattr(EpochListener, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"after step 1; everything is saved; go on with resume="):
        train()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    for again in range(2):  # the second time it is finished
        part = train(resume=str(folder / "part"))
        assert (part.epochs, part.result.to_dict()) == (1, run.result.to_dict()), again
    first, second = (torch.load(one.last, weights_only=True)["model"] for one in (run, part))
    assert all(torch.equal(first[name], second[name]) for name in first)
