# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Early stopping, also of a run that is resumed; callbacks that fail."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import isdfine
from builders import write_micro_config
from isdfine.commands.train import already_finished
from isdfine.core.config.settings import EarlyStop
from isdfine.core.errors import ConfigError
from isdfine.core.registry import REGISTRY
from isdfine.data.evaluate import EvalResult
from isdfine.solver.callbacks import Callback
from isdfine.solver.fit import fit
from isdfine.solver.progress import Waiting
from isdfine.solver.train import StopTraining
from isdfine.solver.training import Training


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Sums of floats depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_what_counts_as_an_improvement() -> None:
    waiting, early, seen = Waiting(), EarlyStop(patience=9, min_delta=0.01), []
    for value in (float("nan"), 0.3, 0.305, 0.309, 0.32, 0.2):
        waiting = waiting.after(value, early)
        seen.append((waiting.best, waiting.evaluations))
    assert seen == [(None, 1), (0.3, 0), (0.3, 1), (0.3, 2), (0.32, 0), (0.32, 1)]


COLLATE = "train_dataloader.collate_fn"
STAGES = (
    "early_stop={patience: 2, min_delta: 0.01, metric: AP50}", f"{COLLATE}.stop_epoch=5", "epoches=9",
    f"{COLLATE}.ema_restart_decay=0.9", "diagnostics=false", "save_every=3",
)  # fmt: skip
AP = (0.3, 0.305, 0.2, 0.9, 0.9, 0.25, 0.35, 0.3, 0.9)
"""By epoch: two without an improvement, two that stage one does not come to, and two more in stage two after a best."""


def run_with(config: Path, *given: str, resume: bool = False, stop_at: int | None = None) -> tuple[Training, list[int]]:
    """A run whose evaluations are made up, and the epochs that it trained; ends when it has saved before an epoch."""
    run, epochs = Training(isdfine.load_config(config, given)), []
    if resume:
        run.resume(run.folder.path)
    save, set_epoch = run.save, run.train_loader.set_epoch

    def save_then_stop(*paths: Path) -> None:
        save(*paths)
        if run.progress.epoch == stop_at and run.folder.last in paths:
            raise StopTraining

    def evaluate(*_: Any, **__: Any) -> EvalResult:
        ap = AP[run.train_loader_epoch]  # type: ignore[attr-defined]
        return EvalResult(dict.fromkeys(run.evaluator.metrics, ap), [], 8)

    def begin(epoch: int) -> None:
        run.train_loader_epoch = epoch  # type: ignore[attr-defined]
        epochs.append(epoch)
        set_epoch(epoch)

    run.save, run.evaluate, run.train_loader.set_epoch = save_then_stop, evaluate, begin  # type: ignore[method-assign]
    if stop_at is None:
        fit(run)
    else:
        with pytest.raises(StopTraining):
            fit(run)
    return run, epochs


def test_stage_one_gives_way_to_stage_two_which_ends_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_micro_config(tmp_path, images=4)
    with caplog.at_level(logging.INFO, "isdfine"):
        whole, epochs = run_with(config, *STAGES, f"output_dir={tmp_path / 'whole'}")
    assert epochs == [0, 1, 2, 5, 6, 7, 8]
    told = [record.getMessage() for record in caplog.records if "early stop" in record.getMessage()]
    said = "early stop after epoch 2: no AP50 more than 0.01 above 0.3 in the last 2 evaluations"
    assert told == [f"{said}; stage two, epoch 5, begins"]
    assert whole.optim.schedule.step == 9  # as if all epochs of one step had been trained
    assert whole.progress.step == 7
    part = (*STAGES, f"output_dir={tmp_path / 'part'}")
    _, first = run_with(config, *part, stop_at=3)  # before the leap
    again = (*part, f"resume={tmp_path / 'part'}")
    _, second = run_with(config, *again, resume=True, stop_at=6)  # behind it
    resumed, third = run_with(config, *again, resume=True)
    assert [first, second, third] == [[0, 1, 2], [5], [6, 7, 8]]
    assert resumed.progress == whole.progress
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_run_of_one_stage_ends_and_is_finished(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_micro_config(tmp_path, images=4)
    given = (*STAGES, f"{COLLATE}.stop_epoch=null", "save_every=100")
    with caplog.at_level(logging.INFO, "isdfine"):
        run, epochs = run_with(config, *given)
    assert epochs == [0, 1, 2]
    assert caplog.text.count("early stop after epoch 2: ") == 1
    assert "in the last 2 evaluations; the run ends" in caplog.text
    again = Training(isdfine.load_config(config, [*given, f"resume={run.folder.path}"]))
    again.resume(run.folder.path)
    assert again.finished
    assert already_finished(again).endswith("-u early_stop=null")
    patient = Training(isdfine.load_config(config, [*given, f"resume={run.folder.path}", "early_stop.patience=3"]))
    patient.resume(run.folder.path)
    assert not patient.finished


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("20", "expected mapping"),
        ("{min_delta: 0.1}", "expected a mapping with patience, .* write early_stop: {patience: 20, min_delta: 0.001}"),
        ("{patience: 0}", "patience: expected a whole number of 1 or more, found 0"),
        ("{patience: 5, min_delta: -1}", "min_delta: expected a number from 0 to below 1"),
        ("{patience: 5, delta: 1}", "delta: no such key; known are patience, min_delta, metric"),
        ("{patience: 5, metric: 7}", "metric: expected the name of a metric such as AP, found 7"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"early_stop: {message}") as raised:
        isdfine.load_config(write_micro_config(tmp_path), [f"early_stop={value}"])
    assert "\n" not in str(raised.value)


def test_an_unknown_metric_is_named_before_training(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    with pytest.raises(
        ConfigError, match=r"early_stop.metric is 'mAP': choose one of AP, AP50, AP75, APs, APm, APl, AR1"
    ):
        Training(isdfine.load_config(config, ["early_stop={patience: 1, metric: mAP}"]))
    run = Training(isdfine.load_config(config))
    assert list(run.evaluate().stats) == run.evaluator.metrics


class Failing(Callback):
    """Sees the best weights after the evaluation; divides by zero at the end of the epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, bool]] = []

    def on_evaluation(self, run: Training, epoch: int, metrics: Any) -> None:
        self.seen.append((epoch, metrics["AP"], run.folder.best.is_file()))

    def on_epoch_end(self, run: Training, epoch: int) -> None:
        assert run.folder.last.is_file()
        self.seen.append((1 // epoch, 0.0, True))


class Enough(Callback):
    """Ends the run at a hook of the first epoch."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.stop)

    def stop(self, run: Training, epoch: int, *_: Any) -> None:
        raise StopTraining("enough")


@pytest.mark.parametrize("hook", ["on_evaluation", "on_epoch_end"])
def test_a_callback_ends_the_run_in_good_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hook: str
) -> None:
    monkeypatch.setitem(REGISTRY._classes, "Enough", Enough)
    config = write_micro_config(tmp_path, images=4)
    given = [f"callbacks=[{{type: Enough, hook: {hook}}}]", "save_every=9", "epoches=9"]
    run = Training(isdfine.load_config(config, given))
    with caplog.at_level(logging.INFO, "isdfine"):
        result = fit(run)
    assert "callbacks: Enough.stop, epoch 0: the run ends: enough" in caplog.text
    assert (run.progress.epoch, result.stats["AP"]) == (1, run.progress.best.best)
    again = Training(isdfine.load_config(config, [*given, f"resume={run.folder.path}"]))
    again.resume(run.folder.last)
    assert (again.progress, again.finished) == (run.progress, False)


def test_an_error_in_a_callback_ends_the_run_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY._classes, "Failing", Failing)
    run = Training(isdfine.load_config(write_micro_config(tmp_path), ["callbacks=[Failing]"]))
    line = Failing.on_epoch_end.__code__.co_firstlineno + 2
    where = re.escape(f"{Path(__file__)}:{line}: ZeroDivisionError: ")
    with pytest.raises(
        ConfigError, match=rf"^callbacks: Failing.on_epoch_end, epoch 0: {where}.*continue with -r"
    ) as raised:
        fit(run)
    assert "\n" not in str(raised.value)
    (callback,) = run.callbacks
    assert isinstance(callback, Failing)
    assert [(epoch, best) for epoch, _, best in callback.seen] == [(0, True)]
