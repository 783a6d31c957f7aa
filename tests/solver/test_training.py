# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Whole runs of the micro model: train, resume, stop, distribute, fine-tune, refuse."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import isdfine
from builders import write_coco, write_micro_config
from forked import free_port, rank_environment, start_script
from isdfine.core.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from isdfine.core.files import is_locked, take_lock
from isdfine.data.evaluate import EvalResult
from isdfine.nn.backbone.hgnetv2 import VARIANTS, Variant
from isdfine.solver.checkpoint import save_checkpoint, set_rng_state
from isdfine.solver.fit import fit, make_folder
from isdfine.solver.solver import Evaluation
from isdfine.solver.train import StopTraining
from isdfine.solver.training import Training

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    """The same number of threads everywhere: sums of floats depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_micro(config: Path, *overrides: str, resume: Path | None = None) -> Training:
    """Train the micro model in this process."""
    extra = [f"resume={resume}"] if resume else []
    run = Training(isdfine.load_config(config, [*overrides, *extra]))
    if resume:
        run.resume(resume)
    fit(run)
    return run


class Launch:
    """tools/train.py in another process, or in several as torchrun starts them; what they print goes to files."""

    def __init__(self, config: Path, *arguments: str, processes: int = 1) -> None:
        given, port = ("-c", str(config), *arguments), free_port()
        self.logs = [config.parent / f"log{rank}.txt" for rank in range(processes)]
        self.processes = [
            start_script(ROOT / "tools" / "train.py", *given, log=log, ISDFINE_DIST_TIMEOUT="50", **of_rank)
            for log, of_rank in zip(
                self.logs, [rank_environment(rank, port) for rank in range(processes)] if processes > 1 else [{}]
            )
        ]

    def end(self, timeout: float = 240) -> tuple[list[int | None], str]:
        """Exit codes and output."""
        for process in self.processes:
            process.join(timeout)
        return [process.exitcode for process in self.processes], "".join(log.read_text() for log in self.logs)

    def succeed(self) -> str:
        """Output of a run that must end well."""
        codes, output = self.end()
        assert set(codes) == {0}, output
        return output


def under_torchrun(config: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of tools/train.py in two processes that torchrun starts."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command = [sys.executable, *launcher, str(ROOT / "tools" / "train.py"), "-c", str(config), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ISDFINE_DIST_TIMEOUT": "50"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout


def lines(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    """Records of one kind in a run's metrics; of a run that goes on the last line may be half there."""
    file = folder / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    records = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [record for record in records if record["kind"] == kind]


def saved(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def assert_same_weights(first: Path, second: Path) -> None:
    """Model, EMA, optimiser: equal to the last bit."""
    one, two = saved(first), saved(second)
    for name in one["model"]:
        assert torch.equal(one["model"][name], two["model"][name]), name
        assert torch.equal(one["ema"]["module"][name], two["ema"]["module"][name]), name
    for key, state in one["optim"]["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, two["optim"]["optimizer"]["state"][key][name]), (key, name)


def test_a_run_trains_evaluates_and_keeps_its_files(tmp_path: Path) -> None:
    run = run_micro(write_micro_config(tmp_path))
    folder = tmp_path / "run"
    assert {"config.yml", "last.pth", "best.pth", "metrics.jsonl"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*.tmp"))
    assert [record["step"] for record in lines(folder)] == [1, 2, 3, 4]
    assert all(0 < record["loss"] < 1000 for record in lines(folder))
    assert [record["epoch"] for record in lines(folder, "val")] == [0, 1]
    state = saved(folder / "last.pth")
    assert state["label_space"]["names"] == ["dark", "light"]
    again = isdfine.load_config(folder / "config.yml")
    assert again.dump() == run.config_text
    assert again.get("num_classes") == 2


def test_test_only_gives_the_numbers_of_the_run(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    run = run_micro(config)
    evaluation = Evaluation(isdfine.load_config(config))
    evaluation.load(tmp_path / "run" / "best.pth")
    assert evaluation.evaluate().stats == run.evaluate(run.judged_model).stats
    # AP is 0 after so few steps: the detections themselves must be those of the best EMA weights
    judged = dict(run.sample_detections(8, run.judged_model))
    trained = dict(run.sample_detections(8, run.model))
    for image_id, found in evaluation.sample_detections(8):
        assert torch.equal(found.boxes, judged[image_id].boxes)
        assert torch.equal(found.scores, judged[image_id].scores)
        assert not torch.equal(found.scores, trained[image_id].scores)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_and_two_epochs_are_four(tmp_path: Path, accumulate: int) -> None:
    config = write_micro_config(tmp_path)
    common = (f"accumulate_steps={accumulate}", "epoches=4")
    run_micro(config, *common, f"output_dir={tmp_path / 'whole'}")

    class Stop(StopTraining):
        pass

    part = tmp_path / "part"
    run = Training(isdfine.load_config(config, [*common, "save_every_steps=1", f"output_dir={part}"]))
    original = run.save

    def save_then_stop(*paths: Path) -> None:
        original(*paths)
        if run.progress.step == 3 + (accumulate - 1):
            raise Stop

    run.save = save_then_stop  # type: ignore[method-assign]
    with pytest.raises(StopTraining):
        fit(run)
    run_micro(config, *common, f"output_dir={part}", resume=part)
    assert_same_weights(tmp_path / "whole" / "last.pth", part / "last.pth")


def test_resume_inside_stage_two(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    collate = "train_dataloader.collate_fn"
    stages = ("epoches=4", f"{collate}.stop_epoch=1", f"{collate}.ema_restart_decay=0.9")
    run_micro(config, *stages, f"output_dir={tmp_path / 'whole'}")
    part = tmp_path / "part"
    run = Training(isdfine.load_config(config, [*stages, f"output_dir={part}"]))
    original = run.save

    def save_then_stop(*paths: Path) -> None:
        original(*paths)
        if run.progress.epoch == 3 and run.folder.last in paths:
            raise StopTraining

    run.save = save_then_stop  # type: ignore[method-assign]
    with pytest.raises(StopTraining):
        fit(run)
    assert (part / "best_stg1.pth").exists()
    run_micro(config, *stages, f"output_dir={part}", resume=part)
    assert_same_weights(tmp_path / "whole" / "last.pth", part / "last.pth")


def test_killed_runs_go_on_as_if_nothing_had_been() -> None:
    """Two of the kills of the campaign, which says what it compares."""
    command = [sys.executable, str(ROOT / "tests" / "kills.py"), "--count", "2", "--epochs", "4"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills, 1 chains: 1 identical, 0 orphans" in done.stdout


def test_sigterm_saves_and_ends_in_good_order(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    run = Launch(config, "-u", "epoches=500")
    (process,) = run.processes
    while process.is_alive() and len(lines(tmp_path / "run")) < 3:
        time.sleep(0.01)
    process.terminate()
    codes, output = run.end()
    assert codes == [128 + signal.SIGTERM], output
    assert re.search(r"stopped by SIGTERM after step \d+; everything is saved; continue with -r", output)
    step = saved(tmp_path / "run" / "last.pth")["progress"]["step"]
    assert step >= lines(tmp_path / "run")[-1]["step"] - 1


def test_two_processes_equal_one_with_the_same_global_batch(
    tmp_path: Path, small_backbone: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "B0", small_backbone)  # as the processes have it
    config = write_micro_config(tmp_path)
    # Noise would be drawn per rank; and AdamW's first steps blow rounding of vanishing gradients up to full size.
    updates = ["DFINETransformer.num_denoising=0", "sync_bn=true", "epoches=2"]
    # Sums over 2 and over 4 images round differently with channels last, and layers that nearly agree show it.
    updates += ["optimizer={type: SGD, lr: 0.01}", "channels_last=false"]
    run_micro(config, *updates, f"output_dir={tmp_path / 'one'}")
    Launch(config, "-u", *updates, f"output_dir={tmp_path / 'two'}", processes=2).succeed()
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert len(one) == len(two) == 4
    for first, second in zip(one, two):
        terms = [name for name in first if name.startswith("loss")]
        assert terms == [name for name in second if name.startswith("loss")]
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
        assert [second[name] for name in terms] == pytest.approx([first[name] for name in terms], rel=1e-5, abs=1e-4)
    one, two = (lines(tmp_path / name, "diagnostics") for name in ("one", "two"))
    assert len(one) == len(two) == 4
    for first, second in zip(one, two):
        assert list(first) == list(second)
        for name in first.keys() - {"kind"}:
            of_ranks = 2 if name in ("km", "ku") else 1
            assert second[name] * of_ranks == pytest.approx(first[name], rel=1e-3, abs=1e-6), name
    ap_one, ap_two = (lines(tmp_path / name, "val")[-1]["AP"] for name in ("one", "two"))
    assert ap_two == pytest.approx(ap_one, abs=1e-3)


def test_a_rank_without_any_object_does_not_hang(tmp_path: Path) -> None:
    # batches of 2 in file order: rank 0 gets the even images, which have boxes; rank 1 the odd ones, which have none
    config = write_micro_config(tmp_path, boxes=(2, 0))
    updates = ["-u", "train_dataloader.shuffle=false", "train_dataloader.total_batch_size=2", "epoches=1"]
    Launch(config, *updates, processes=2).succeed()
    assert len(lines(tmp_path / "run")) == 4


def test_a_rank_that_raises_ends_the_run_with_its_message(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    (tmp_path / "data" / "images" / "001.png").write_bytes(b"not an image")
    began = time.monotonic()
    updates = ["-u", "train_dataloader.shuffle=false", "train_dataloader.total_batch_size=2"]
    code, output = under_torchrun(config, *updates)
    assert code != 0
    assert "001.png" in output
    assert time.monotonic() - began < 60 + 25  # 60 s after the error, plus the start of two interpreters


def test_resuming_refuses_foreign_files(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    run = run_micro(config, "epoches=1")
    with pytest.raises(ConfigError, match="holds another run"):
        run_micro(config)
    weights = tmp_path / "weights.pth"
    torch.save({"model": run.model.state_dict()}, weights)
    with pytest.raises(CheckpointError, match=r"has no optim, progress, rng.*start from them with -t"):
        Training(isdfine.load_config(config, [f"resume={weights}", f"output_dir={tmp_path / 'new'}"])).resume(weights)
    other = write_coco(tmp_path / "other", categories=((1, "cat"), (2, "dog")))
    changed = [f"{part}_dataloader.dataset.ann_file={other}" for part in ("train", "val")]
    changed += [f"resume={tmp_path / 'run'}"]
    with pytest.raises(CheckpointError, match="trained on the classes 1=dark, 2=light, the data has 1=cat, 2=dog"):
        Training(isdfine.load_config(config, changed)).resume(tmp_path / "run")


def test_train_and_val_must_have_the_same_classes(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    other = write_coco(tmp_path / "other", categories=((1, "cat"), (2, "dog")))
    with pytest.raises((ConfigError, DataError), match="must have the same names in the same order"):
        Training(isdfine.load_config(config, [f"val_dataloader.dataset.ann_file={other}"]))


def test_train_and_val_may_number_their_classes_differently(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    renumbered = write_coco(tmp_path / "other", categories=((0, "dark"), (7, "light")))
    folder = renumbered.parent / "images"
    overrides = [
        f"val_dataloader.dataset.{key}={value}" for key, value in (("ann_file", renumbered), ("img_folder", folder))
    ]
    run = Training(isdfine.load_config(config, overrides))
    assert run.train_loader.dataset.label_space.names == run.val_loader.dataset.label_space.names


def test_fine_tuning_reports_what_it_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_micro_config(tmp_path)
    run_micro(config, "epoches=1")
    run = Training(isdfine.load_config(config, ["DFINETransformer.num_layers=1", f"output_dir={tmp_path / 'tuned'}"]))
    with caplog.at_level("INFO"):
        report = run.tune_from(tmp_path / "run")
    assert any("decoder.decoder.layers.1" in name for name in report.unexpected)
    assert report.loaded
    assert "unexpected" in caplog.text
    make_folder(run)
    assert (tmp_path / "tuned" / "load_report.json").is_file()
    for name, value in run.model.state_dict().items():
        assert torch.equal(run.optim.ema.module.state_dict()[name], value)


def test_a_nan_stops_the_run_by_name_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    with pytest.raises(NonFiniteError, match="loss_"):
        run_micro(config, "optimizer.lr=1e30", "clip_max_norm=0", "lr_warmup_scheduler.warmup_duration=0", "epoches=9")


def test_use_amp_on_a_cpu_says_that_it_trains_in_fp32(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Training(isdfine.load_config(write_micro_config(tmp_path), ["use_amp=true"]))
    assert "use_amp needs a GPU: training in fp32" in caplog.text
    assert run.optim.precision.name == "fp32"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_and_resumes(tmp_path: Path, precision: str) -> None:
    config = write_micro_config(tmp_path, images=4)  # of one batch: fp16 is slow on a CPU
    run_micro(config, f"precision={precision}", "epoches=2")
    assert all(0 < record["loss"] < 1000 for record in lines(tmp_path / "run"))
    part = f"output_dir={tmp_path / 'part'}"
    run_micro(config, f"precision={precision}", "epoches=1", part)
    run_micro(config, f"precision={precision}", "epoches=2", part, resume=tmp_path / "part")
    assert_same_weights(tmp_path / "run" / "last.pth", tmp_path / "part" / "last.pth")


def test_steps_that_are_not_finite_can_be_skipped(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    run = Training(isdfine.load_config(config, ["nonfinite=skip", "epoches=1"]))
    original = run.criterion.terms
    calls = []

    def spoil_the_first(*arguments: Any) -> Any:
        terms = original(*arguments)
        calls.append(1)
        return {name: term * float("nan") if len(calls) == 1 else term for name, term in terms.items()}

    run.criterion.terms = spoil_the_first  # type: ignore[method-assign]
    fit(run)
    assert run.optim.skipped == 1
    assert all(value.isfinite().all() for value in run.model.state_dict().values() if value.is_floating_point())


def test_a_full_disk_stops_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    with pytest.raises(ConfigError, match=r"MiB free, the checkpoints of this run need about"):
        run_micro(write_micro_config(tmp_path))


def test_stage_two_keeps_improvements_and_goes_back_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collate = "train_dataloader.collate_fn"
    config = isdfine.load_config(
        write_micro_config(tmp_path), ["epoches=6", f"{collate}.stop_epoch=2", f"{collate}.ema_restart_decay=0.9"]
    )
    run = Training(config)
    script = iter([0.1, 0.3, 0.2, 0.25, 0.5, 0.4])  # worse than stage one, after the reset, the new best, worse
    monkeypatch.setattr(run, "evaluate", lambda *_, **__: EvalResult({"AP": next(script, 0.5), "AP50": 0.0}, [], 8))
    decays, restart = [], run.restart_from_stage_one
    monkeypatch.setattr(run, "restart_from_stage_one", lambda: (restart(), decays.append(run.optim.ema.decay)))
    result = fit(run)
    assert result is not None
    assert result.stats["AP"] == 0.5
    assert decays == pytest.approx([0.9, 0.9 - 1e-4, 0.9 - 2e-4])
    best = saved(tmp_path / "run" / "best.pth")
    assert (best["progress"]["best"]["best"], best["progress"]["best"]["best_epoch"]) == (0.5, 4)
    assert saved(tmp_path / "run" / "best_stg1.pth")["progress"]["best"]["best_epoch"] == 1
    for name, value in run.judged_model.state_dict().items():
        assert torch.equal(value, best["ema"]["module"][name]), name


def test_resuming_into_another_folder(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    run_micro(config, "epoches=1")
    first = tmp_path / "run"
    occupied = tmp_path / "occupied"
    run_micro(config, "epoches=1", f"output_dir={occupied}")
    with pytest.raises(ConfigError, match=r"occupied holds another run"):
        run_micro(config, f"output_dir={occupied}", resume=first)
    run_micro(config, f"output_dir={tmp_path / 'new'}", resume=first)
    assert (tmp_path / "new" / "best.pth").exists()
    (first / "best.pth").unlink()
    with pytest.raises(CheckpointError, match=r"best\.pth is missing: the best of the run .* start a new run with -t"):
        run_micro(config, f"output_dir={tmp_path / 'newer'}", resume=first)


def test_the_saved_config_starts_from_no_checkpoint(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    run_micro(config, "epoches=1")
    tuned = Training(isdfine.load_config(config, [f"tuning={tmp_path / 'run'}", f"output_dir={tmp_path / 'tuned'}"]))
    assert isdfine.load_config(config, [f"tuning={tmp_path / 'run'}"]).settings.tuning is not None
    path = tmp_path / "saved.yml"
    path.write_text(tuned.config_text)
    settings = isdfine.load_config(path).settings
    assert (settings.resume, settings.tuning) == (None, None)


def test_a_signal_during_an_evaluation_saves_before_it_ends(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    run_micro(config, "epoches=3", f"output_dir={tmp_path / 'whole'}")
    run = Training(isdfine.load_config(config, ["epoches=3"]))
    evaluate = run.evaluate

    def evaluate_and_ask_to_stop(*arguments: Any, **named: Any) -> EvalResult:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, **named)

    run.evaluate = evaluate_and_ask_to_stop  # type: ignore[method-assign]
    with pytest.raises(StopTraining):
        fit(run)
    progress = saved(tmp_path / "run" / "last.pth")["progress"]
    assert (progress["epoch"], progress["batch"]) == (0, 2)
    run_micro(config, "epoches=3", resume=tmp_path / "run")
    assert_same_weights(tmp_path / "whole" / "last.pth", tmp_path / "run" / "last.pth")


@pytest.fixture(scope="module", params=[1, 2])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Training]:
    """Config and run of one epoch and of two, with a checkpoint of each epoch."""
    config = write_micro_config(tmp_path_factory.mktemp("whole"))
    return config, run_micro(config, "checkpoint_freq=1", f"epoches={request.param}")


@pytest.mark.parametrize("killed_in", ["checkpoint", "last"])
def test_resuming_mends_what_a_kill_left(
    whole: tuple[Path, Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    """While the checkpoints of the last epoch were written; with one epoch only the best one is whole."""
    config, run = whole
    epochs, folder = run.progress.epoch, tmp_path / "run"
    given = ("checkpoint_freq=1", f"epoches={epochs}", f"output_dir={folder}")

    def save_half(state: dict[str, Any], path: Path) -> None:
        if state["progress"]["epoch"] == epochs and path.name.startswith(killed_in):
            path.with_name(f"{path.name}.tmp").write_bytes(b"half")
            raise StopTraining
        save_checkpoint(state, path)

    monkeypatch.setattr("isdfine.solver.training.save_checkpoint", save_half)
    with pytest.raises(StopTraining):
        fit(Training(isdfine.load_config(config, given)))
    monkeypatch.undo()
    resumed = Training(isdfine.load_config(config, [*given, f"resume={folder}"]))
    resumed.resume(folder)
    assert not resumed.finished
    fit(resumed)
    assert {path.name for path in folder.iterdir()} == {path.name for path in run.folder.path.iterdir()}
    for path in run.folder.checkpoints():
        assert_same_weights(path, folder / path.name)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    late = Training(isdfine.load_config(config))
    run_micro(config, "epoches=1")
    with pytest.raises(ConfigError, match=r"holds another run \(last\.pth"):  # since it looked for the first time
        fit(late)
    resumed = isdfine.load_config(config, [f"resume={tmp_path / 'run'}", "epoches=2"])
    run = Training(resumed)
    held = take_lock(run.folder.lock)
    assert held is not None
    with held:
        for refused in (lambda: Training(resumed), lambda: run.resume(tmp_path / "run"), lambda: fit(run)):
            with pytest.raises(
                ConfigError, match=r"run is in use by process .* choose another folder with -u output_dir"
            ):
                refused()
    run.resume(tmp_path / "run")
    fit(run)
    assert not is_locked(run.folder.lock)


@pytest.mark.parametrize("when", ["line", "save"])
def test_a_folder_that_is_deleted_ends_the_run_at_the_next_write(tmp_path: Path, when: str) -> None:
    run = Training(isdfine.load_config(write_micro_config(tmp_path), [f"print_freq={1 if when == 'line' else 100}"]))
    terms = run.criterion.terms

    def terms_without_folder(context: Any) -> Any:
        shutil.rmtree(run.folder.path, ignore_errors=True)
        return terms(context)

    run.criterion.terms = terms_without_folder  # type: ignore[method-assign]
    step = 1 if when == "line" else 2
    with pytest.raises(CheckpointError, match=rf"run was deleted or moved while .*\(noticed at step {step}\)"):
        fit(run)
    assert not run.folder.path.exists()


def test_every_generator_starts_from_the_seed_and_goes_on(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    def after_start(seed: int) -> tuple[float, float, float]:
        Training(isdfine.load_config(config, [f"seed={seed}"]))
        return drawn()

    assert after_start(3) == after_start(3)
    assert not set(after_start(3)) & set(after_start(4))
    after_start(2**63 - 1)
    run = run_micro(config, "epoches=1")
    state = saved(run.folder.last)["rng"][0]
    set_rng_state(state)
    expected = drawn()
    Training(isdfine.load_config(config, [f"resume={run.folder.last}"])).resume(run.folder.last)
    assert drawn() == expected


def test_other_classes_and_changed_options_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_micro_config(tmp_path)
    run_micro(config, "epoches=1")
    other = write_coco(tmp_path / "data", categories=((1, "cat"), (2, "dog")))
    assert other.exists()
    report = Training(isdfine.load_config(config, [f"output_dir={tmp_path / 'tuned'}"])).tune_from(tmp_path / "run")
    assert "new class    cat, dog" in report.table()
    assert "decoder.enc_score_head.bias" in report.initialised
    write_micro_config(tmp_path)
    run = Training(isdfine.load_config(config, ["optimizer.weight_decay=0.5", f"resume={tmp_path / 'run'}"]))
    run.resume(tmp_path / "run")
    assert "weight_decay of group 'rest' was 0.0001" in caplog.text
    assert run.optim.optimizer.param_groups[0]["weight_decay"] == 0.5


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"device is 'tpu9': give cpu, cuda or cuda:0"):
        Evaluation(isdfine.load_config(write_micro_config(tmp_path), ["device=tpu9"]))


def test_stage_two_without_anything_to_evaluate_says_so(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    empty = json.loads((tmp_path / "data" / "annotations.json").read_text()) | {"annotations": []}
    (tmp_path / "data" / "empty.json").write_text(json.dumps(empty))
    data = f"val_dataloader.dataset.ann_file={tmp_path / 'data' / 'empty.json'}"
    with pytest.raises(CheckpointError, match="no evaluation gave an AP: the validation data holds no box"):
        run_micro(config, data, "train_dataloader.collate_fn.stop_epoch=1")
