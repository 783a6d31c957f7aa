# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Whole runs of the micro model with distillers: off, growing, resumed, without objects, not a number, distributed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import isdfine
from builders import ROOT, write_micro_config
from isdfine.core.errors import ConfigError, NonFiniteError
from isdfine.core.registry import REGISTRY
from isdfine.distill.context import DistillationContext
from isdfine.distill.layers import InterLayerDistillation
from isdfine.solver.fit import fit
from isdfine.solver.train import StopTraining
from isdfine.solver.training import Training

OFF = "distillers=[]"
INTER = "distillers=[{type: InterLayerDistillation, class_weight: 0.5}]"


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """The same number of threads everywhere: sums of floats depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def prepare(config: Path, *overrides: str, name: str = "run", resume: Path | None = None) -> Training:
    """A run in a folder of its own."""
    given = [*overrides, f"output_dir={config.parent / name}", *([f"resume={resume}"] if resume else [])]
    run = Training(isdfine.load_config(config, given))
    if resume:
        run.resume(resume)
    return run


def weights(run: Training) -> dict[str, Tensor]:
    return run.model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def logged(run: Training, kind: str = "train") -> list[dict[str, Any]]:
    records = map(json.loads, (run.folder.path / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == kind]


def test_a_distiller_that_is_off_leaves_weights_average_and_random_state_as_without(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    ended = {}
    for name, distillers in {
        "none": OFF,
        "inter": "distillers=[{type: InterLayerDistillation, weight: 0}]",
        "later": "distillers=[{type: InterLayerDistillation, class_weight: 1.0, ramp: [1, 1]}]",
        "on": INTER,
    }.items():
        run = prepare(config, distillers, "epoches=1", name=name)
        fit(run)
        ended[name] = weights(run), run.optim.ema.module.state_dict(), torch.get_rng_state()
    for name in ("inter", "later"):
        assert same(ended[name][0], ended["none"][0]), name
        assert same(ended[name][1], ended["none"][1]), name
    assert not same(ended["on"][0], ended["none"][0])
    assert all(torch.equal(state[2], ended["none"][2]) for state in ended.values())


def stop_after(run: Training, batches: int) -> None:
    """SIGTERM while batch number ``batches`` is scored."""
    original, seen = run.criterion.terms, []

    def terms(context: DistillationContext) -> dict[str, Tensor]:
        seen.append(context.progress)
        if len(seen) == batches:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(context)

    run.criterion.terms = terms  # type: ignore[method-assign]


@pytest.mark.parametrize("method", ["InterLayerDistillation", pytest.param("GOLSD", marks=pytest.mark.slow)])
def test_a_run_killed_in_the_middle_of_its_ramp_goes_on_identically(method: str, tmp_path: Path) -> None:
    """2 epochs of 4 batches in windows of 3 and 1: four optimiser steps, killed in the first window of the second."""
    config = write_micro_config(tmp_path)
    given = ["train_dataloader.total_batch_size=2", "accumulate_steps=3", "epoches=2", "eval_every=2"]
    given += [f"distillers=[{{type: {method}, ramp: [0.0, 1.0]}}]"]
    whole = prepare(config, *given, name="whole")
    fit(whole)
    part = prepare(config, *given, name="part")
    stop_after(part, 5)
    with pytest.raises(StopTraining):
        fit(part)
    assert part.optim.schedule.step == 3
    assert part.optim.schedule.progress == 0.75
    rest = prepare(config, *given, name="part", resume=part.folder.last)
    fit(rest)
    assert same(weights(rest), weights(whole))
    assert same(rest.optim.ema.module.state_dict(), whole.optim.ema.module.state_dict())
    key = "loss_isd_aux_0" if method.startswith("Inter") else "loss_ddf_aux_0"
    expected = {record["step"]: record[key] for record in logged(whole)}
    assert {record["step"]: record[key] for record in logged(rest)} == expected
    assert [step for step, value in expected.items() if value == 0] == [1, 2, 3]  # the window before the ramp begins
    assert len(expected) == 8


def test_images_and_batches_without_objects_give_the_same_terms(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path, images=4, boxes=(0, 2))
    run = prepare(config, INTER, "train_dataloader.total_batch_size=1", "epoches=1", "print_freq=1")
    fit(run)
    records = logged(run)
    assert len(records) == 4
    names = [sorted(name for name in record if name.startswith("loss")) for record in records]
    assert all(name == names[0] for name in names)
    assert {"loss_isd_aux_0", "loss_isd_dn_0"} <= set(names[0])
    empty = [record for record in records if record["loss_vfl_dn_0"] == 0]  # no objects, no denoising queries
    assert len(empty) == 2
    assert all(record["loss_isd_dn_0"] == 0 for record in empty)
    assert any(record["loss_isd_dn_0"] > 0 for record in records)


class Spoiled(InterLayerDistillation):
    """Not a number in the second batch that it sees."""

    batches = 0

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        self.batches += 1
        losses = super().forward(context)
        if self.batches == 2:
            losses["loss_isd_aux_0"] = losses["loss_isd_aux_0"] * float("nan")
        return losses


def test_a_distillers_nan_stops_the_run_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY._classes, "Spoiled", Spoiled)
    run = prepare(write_micro_config(tmp_path), "distillers=[Spoiled]")
    with pytest.raises(NonFiniteError, match=r"^step 2: loss_isd_aux_0, gradient norm is not finite\. The last checkp"):
        fit(run)


def test_a_distillers_nan_is_skipped_named_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(REGISTRY._classes, "Spoiled", Spoiled)
    run = prepare(write_micro_config(tmp_path), "distillers=[Spoiled]", "nonfinite=skip", "epoches=1")
    fit(run)
    assert run.optim.skipped == 1
    assert all(value.isfinite().all() for value in weights(run).values() if value.is_floating_point())
    assert "step 2: not finite, and so not in the metrics: loss_isd_aux_0" in caplog.text


def test_without_auxiliary_losses_there_is_nothing_between_layers(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    with pytest.raises(
        ConfigError, match=r"distillers.0: InterLayerDistillation needs two decoder layers or more, but 1"
    ):
        prepare(config, INTER, "DFINETransformer.aux_loss=False")
    assert not list(prepare(config, "DFINETransformer.aux_loss=False").criterion.distillers)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("boxes", [(0, 2), (3, 0), (0, 0, 1)], ids=str)
def test_ranks_with_and_without_objects_train_together(boxes: tuple[int, ...], tmp_path: Path) -> None:
    """One image per rank and batch, so that ranks without any object meet ranks with some."""
    config = write_micro_config(tmp_path, images=6, boxes=boxes)
    arguments = ["-c", str(config), "-u", INTER, "epoches=1", "train_dataloader.total_batch_size=2", "print_freq=1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ISDFINE_DIST_TIMEOUT": "60"}
    done = subprocess.run(
        [*launcher, str(ROOT / "tools" / "train.py"), *arguments],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if record["kind"] == "train"]
    assert len(trained) == 3
    assert all("loss_isd_aux_0" in record and "loss_isd_cls_dn_0" in record for record in trained)
