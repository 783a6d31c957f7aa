# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint a run goes on from, and what it says of those that are damaged or odd."""

import logging
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import isdfine
from builders import write_micro_config
from isdfine.core.errors import CheckpointError
from isdfine.load import checkpoint_file, open_checkpoint
from isdfine.solver.checkpoint import run_state, save_checkpoint
from isdfine.solver.fit import fit
from isdfine.solver.training import Training

State = dict[str, Any]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that has two epochs behind it, with a checkpoint of each."""
    config = write_micro_config(tmp_path_factory.mktemp("whole"))
    fit(Training(isdfine.load_config(config, ["checkpoint_freq=1"])))
    return config


@pytest.fixture
def folder(config: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(config.parent / "run", tmp_path / "run"))


@pytest.fixture(scope="module")
def training(config: Path) -> Training:
    return Training(isdfine.load_config(config, [f"resume={config.parent / 'run'}", "epoches=3"]))


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:3000])


def turned(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    raw = bytearray(file.read_bytes())
    raw[largest.header_offset + largest.file_size // 2] ^= 4  # a number: between tensors are bytes that nobody reads
    file.write_bytes(raw)


def weights_only(file: Path) -> None:
    save_checkpoint({"model": torch.load(file, weights_only=True)["model"]}, file)


DAMAGE: tuple[tuple[Callable[[Path], object], str], ...] = (
    (half, r"last.pth \(3000 bytes\) cannot be read"),
    (turned, r"last.pth \(\d+ bytes\) cannot be read"),
    (lambda file: file.write_bytes(b""), "last.pth"),
    (Path.unlink, "last.pth is missing"),
    (weights_only, "last.pth has no optim, progress, rng"),
)


@pytest.mark.parametrize(("damage", "problem"), DAMAGE)
def test_a_run_goes_on_from_the_newest_good_checkpoint(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], problem: str
) -> None:
    damage(folder / "last.pth")
    half(folder / "checkpoint0001.pth")
    (folder / "best.pth").unlink()
    with caplog.at_level(logging.WARNING, logger="isdfine"):
        file, state = run_state(folder)
    assert file == folder / "checkpoint0000.pth"
    assert state["progress"]["step"] == 2
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert re.search(problem, record.getMessage())
    assert record.getMessage().endswith("checkpoint0000.pth (epoch 1, batch 0, step 2): 2 steps are done again")


def test_a_folder_with_nothing_but_best_goes_on_from_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in (folder / "last.pth", *folder.glob("checkpoint*.pth")):
        file.unlink()
    with caplog.at_level(logging.WARNING, logger="isdfine"):
        assert run_state(folder)[0] == folder / "best.pth"
        assert open_checkpoint(folder).path == folder / "best.pth"
    assert "last.pth is missing; going on from" in caplog.text
    assert "has no last.pth:" in caplog.text
    weights_only(folder / "best.pth")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint to go on from: .*best.pth has no optim.* with -t, in ano"
    ):
        run_state(folder)


def test_weights_beside_the_checkpoints_do_not_stand_in_the_way(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"exported")
    assert checkpoint_file(folder) == folder / "last.pth"
    assert run_state(folder)[0] == folder / "last.pth"


def test_an_empty_folder_and_a_whole_one(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        run_state(tmp_path / "empty")
    assert run_state(folder)[0] == folder / "last.pth"
    assert not caplog.records


def put(*keys: Any, value: object) -> Callable[[State], None]:
    """Set one value inside a state."""

    def change(state: State) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


def first_moment(value: Any) -> Callable[[State], None]:
    return lambda state: next(iter(state["optim"]["optimizer"]["state"].values())).update(exp_avg=value)


def nan_in(*keys: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        inner: Any = state
        for key in keys:
            inner = inner[key]
        value = next(value for value in inner.values() if value.is_floating_point())
        value[(0,) * value.ndim] = float("nan")

    return change


ODD: tuple[tuple[Callable[[State], object], str], ...] = (
    (
        lambda state: (state.update(optimizer={}, last_epoch=3), state.pop("optim")),
        "has no optim: it holds the state of a run of the official code, of which only the weights are used",
    ),
    (lambda state: state.pop("rng"), "has no rng: it holds weights, not a run of this code; start from them with -t"),
    (put("model", value=3), "is not the state of a run: model is a int"),
    (put("optim", value=[]), "optim is a list"),
    (put("rng", value={}), "rng is no list of random states"),
    (put("progress", value=None), "its progress cannot be read"),
    (put("progress", "step", value=-5), "its progress cannot be right .step is -5."),
    (put("progress", "epoch", value="2"), "epoch is '2'"),
    (put("progress", "epoch", value=True), "epoch is True"),
    (put("progress", "best", value={"best": 3}), "best.best is 3"),
    (put("progress", "best", value={"best": float("nan")}), "best.best is nan"),
    (put("progress", "best", value={"worst": 0}), "its progress cannot be read"),
    (put("progress", "batch", value=900), "stands at batch 900 of an epoch, which has 2 batches here"),
    (nan_in("model"), r"model\..* holds values that are not finite"),
    (nan_in("ema", "module"), r"holds values that are not finite"),
    (put("rng", 0, "torch", value=torch.zeros(5, dtype=torch.uint8)), "the saved random state cannot be used"),
    (put("rng", 0, "torch", value=7), "the saved random state cannot be used"),
    (put("rng", 0, "python", value={"version": 3, "words": torch.zeros(3), "gauss": None}), "random state cannot be"),
    (put("rng", 0, "numpy", "keys", value=torch.zeros(4)), "the saved random state cannot be used"),
    (first_moment(torch.zeros(1, 2, 3)), r"the optimiser's exp_avg is \(1, 2, 3\) for a weight of shape"),
    (first_moment("much"), "the optimiser's exp_avg is '"),
    (put("optim", "optimizer", value=None), "does not fit this run's optimiser"),
    (put("optim", "optimizer", "param_groups", value=7), "does not fit this run's optimiser"),
    (put("optim", "schedule", value={"step": -1}), "the schedule's saved state is"),
    (put("optim", "schedule", value=9), "does not fit this run's optimiser"),
    (put("optim", "ema", "updates", value="many"), "does not fit this run's optimiser or EMA"),
    (put("optim", "precision", value=0), "does not fit this run's optimiser"),
    (put("label_space", "names", value=[1, 2]), "class names must be texts"),
    (put("label_space", "category_ids", value=[1.5, 2]), "category_ids whole numbers"),
)


@pytest.mark.parametrize(("change", "message"), ODD)
def test_odd_contents_are_one_line(
    folder: Path, training: Training, change: Callable[[State], object], message: str
) -> None:
    state = torch.load(folder / "last.pth", weights_only=True)
    change(state)
    save_checkpoint(state, folder / "odd.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        training.resume(folder / "odd.pth")
    assert "\n" not in str(caught.value)
