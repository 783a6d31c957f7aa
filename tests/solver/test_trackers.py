# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Writers that a config lists, in runs of the micro model and alone: what they write, and broken ones."""

import csv
import json
import logging
import multiprocessing
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import isdfine
from builders import load_tool, write_micro_config
from isdfine.core.errors import ConfigError
from isdfine.core.registry import REGISTRY
from isdfine.solver.fit import fit
from isdfine.solver.folder import RunFolder
from isdfine.solver.progress import Progress
from isdfine.solver.trackers import MLflow, WandB
from isdfine.solver.training import Training
from isdfine.solver.writers import Csv, Writer, writers_of

CONFIG = {"epoches": 3, "optimizer": {"type": "AdamW", "lr": 0.001}}


def opened(writer: Writer, folder: Path, progress: Progress) -> Writer:
    writer.open(RunFolder(folder), progress, CONFIG)
    return writer


def write_twice(make: Any, folder: Path) -> None:
    """Two epochs, of which a killed process had the second one before its checkpoint; the resumed run has one more."""
    folder.mkdir(exist_ok=True)
    first = opened(make(), folder, Progress())
    for epoch in (0, 1):
        first.write("train", 2 * epoch + 2, {"loss": 3.0 - epoch}, epoch=epoch)
        first.write("val", 2 * epoch + 2, {"AP": 0.1 * (epoch + 1)}, epoch=epoch)
    first.close(failed=True)
    second = opened(make(), folder, Progress(epoch=1, step=2))
    for epoch in (1, 2):
        second.write("train", 2 * epoch + 2, {"loss": 3.0 - epoch, "loss_new": 0.5}, epoch=epoch)
        second.write("val", 2 * epoch + 2, {"AP": 0.1 * (epoch + 1)}, epoch=epoch)
    second.close()


def test_csv(tmp_path: Path) -> None:
    write_twice(Csv, tmp_path)
    with (tmp_path / "metrics_train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"], row["loss"], row["loss_new"]) for row in rows] == [
        ("0", "2", "3.0", ""), ("1", "4", "2.0", "0.5"), ("2", "6", "1.0", "0.5"),
    ]  # fmt: skip
    path = tmp_path / "metrics_val.csv"
    whole = path.read_text()
    path.write_text(whole + "3,8,0.")  # a kill cut it short
    opened(Csv(), tmp_path, Progress(epoch=9, step=9)).close()
    assert path.read_text() == whole
    assert [row["epoch"] for row in csv.DictReader(whole.splitlines())] == ["0", "1", "2"]


def test_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    where = str(tmp_path / "mlruns")
    write_twice(lambda: MLflow("boxes", tracking_uri=where), tmp_path / "run")
    client = MlflowClient(where)
    experiment = client.get_experiment_by_name("boxes")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"epoches": "3", "optimizer.type": "AdamW", "optimizer.lr": "0.001"}
    for name, values in (("val/AP", [0.1, 0.2, 0.3]), ("train/loss", [3.0, 2.0, 1.0])):
        past = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in past] == [2, 4, 6]
        assert [metric.value for metric in past] == pytest.approx(values)


def records(folder: Path) -> list[Any]:
    """What W&B wrote, in its order: records in the format of LevelDB's logs, here of one block each."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        data, at = path.read_bytes(), 7
        assert data[:4] == b":W&B"
        assert len(data) < 1 << 15  # of one block
        while at + 7 <= len(data):
            _, length, kind = struct.unpack_from("<IHB", data, at)
            assert kind == 1  # whole
            found.append(wandb_internal_pb2.Record.FromString(data[at + 7 : at + 7 + length]))
            at += 7 + length
    return found


def write_with_wandb(folder: Path) -> None:
    """What ``write_twice`` does, and wait for W&B's own process, which writes."""
    import wandb

    write_twice(lambda: WandB("boxes", mode="offline", tags=["tiny"]), folder)
    wandb.teardown()


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    # W&B takes over streams and threads of its process: it gets one of its own
    child = multiprocessing.get_context("spawn").Process(target=write_with_wandb, args=(folder,))
    child.start()
    child.join()
    assert child.exitcode == 0
    written = records(folder)
    runs = [record.run for record in written if record.HasField("run")]
    assert {run.run_id for run in runs} == {(folder / "wandb_run_id.txt").read_text()}
    assert (runs[0].project, runs[0].display_name, list(runs[0].tags)) == ("boxes", "run", ["tiny"])
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["optimizer"] == CONFIG["optimizer"]
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in written
        if record.HasField("history")
    ]
    losses = [(row["train/step"], row["train/epoch"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses[:2] == [(2, 0, 3.0), (4, 1, 2.0)]
    assert losses[-1] == (6, 2, 1.0)
    assert [row["val/AP"] for row in rows if "val/AP" in row][-1] == pytest.approx(0.3)


@pytest.mark.parametrize("terminal", [False, True])
def test_wandb_without_an_account_is_one_line_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin.isatty", lambda: terminal, raising=False)
    config = write_micro_config(tmp_path)
    (tmp_path / "data" / "annotations.json").unlink()
    given = ["-c", str(config), "-u", "writers=[JsonLines, {type: WandB, project: boxes}]"]
    assert load_tool("train").main(given) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "W&B" in line]
    assert len(told) == 1
    assert told[0].endswith("W&B knows no account here: run `wandb login`, or set WANDB_MODE=offline")
    assert "writers.1" in told[0]


class Broken(Writer):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        self.where, self.calls = where, list[str]()

    def _fail(self, here: str) -> None:
        self.calls.append(here)
        if here == self.where:
            raise OSError(f"no connection at {here}")

    def open(self, folder: RunFolder, progress: Progress, config: Mapping[str, Any]) -> None:
        self._fail("open")

    def write(self, kind: str, step: int, values: Mapping[str, float], *, epoch: int) -> None:
        self._fail("write")

    def close(self, *, failed: bool = False) -> None:
        self._fail("close")


def test_broken_writers_are_named_once_and_do_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(REGISTRY._classes, "Broken", Broken)
    listed = "writers=[{type: Broken, where: write}, {type: Broken, where: close}, JsonLines, Csv]"
    run = Training(isdfine.load_config(write_micro_config(tmp_path), [listed, "diagnostics=false", "epoches=1"]))
    fit(run)
    told = [record.getMessage() for record in caplog.records if "Broken" in record.getMessage()]
    line = Broken._fail.__code__.co_firstlineno + 3
    assert len(told) == 2
    for where, text in zip(("write", "close"), told):
        assert text.startswith("the writer Broken fails and is left out from here on: ")
        assert text.endswith(f"test_trackers.py:{line}: OSError: no connection at {where}")
    assert [writer.calls for writer in run.writers if isinstance(writer, Broken)] == [
        ["open", "write"], ["open", "write", "write", "write", "close"],
    ]  # fmt: skip
    kinds = [json.loads(line)["kind"] for line in run.folder.metrics.read_text().splitlines()]
    assert kinds == ["train", "train", "val"]
    assert len((run.folder.path / "metrics_train.csv").read_text().splitlines()) == 3


def test_a_writer_that_cannot_begin_ends_the_run_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY._classes, "Broken", Broken)
    listed = "writers=[{type: Broken, where: never}, {type: Broken, where: open}]"
    run = Training(isdfine.load_config(write_micro_config(tmp_path), [listed]))
    with pytest.raises(
        ConfigError, match=r"^writers: Broken cannot begin: .*OSError: no connection at open; repair that"
    ):
        fit(run)
    (good, _) = run.writers
    assert isinstance(good, Broken)
    assert good.calls == ["open", "close"]
    assert run.progress.step == 0


def names(*overrides: str, config: Path) -> list[str]:
    return [type(writer).__name__ for writer in writers_of(isdfine.load_config(config, overrides))]


def test_which_writers_a_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_micro_config(tmp_path)
    assert names("tensorboard=true", config=config) == ["JsonLines", "TensorBoard"]
    assert names("tensorboard=false", config=config) == ["JsonLines"]
    assert names("writers=[TensorBoard, Csv]", "tensorboard=true", config=config) == ["TensorBoard", "Csv"]
    assert names("writers=[TensorBoard, Csv]", "tensorboard=false", config=config) == ["Csv"]
    assert names("writers=[]", config=config) == []
    with pytest.raises(
        ConfigError, match=r"writers knows no 'CSV'; known: Csv, JsonLines, MLflow, .*TensorBoard, WandB"
    ):
        names("writers=[CSV]", config=config)
    with pytest.raises(ConfigError, match="GOLSD is registered, but does not derive from the base class of writers"):
        names("writers=[GOLSD]", config=config)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with caplog.at_level(logging.WARNING):
        assert names("tensorboard=true", config=config) == ["JsonLines"]
    assert caplog.text.count("no curves for TensorBoard: ") == 1
    with pytest.raises(ConfigError, match=r"writers\.0: tensorboard is not installed: pip install \"isdfine\[log\]\""):
        names("writers=[TensorBoard]", "tensorboard=true", config=config)
