# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Diagnostics in whole runs of the micro model: written with every line, and without any influence."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import write_micro_config
from isdfine.distill.diagnostics import WeightedMean
from isdfine.solver.callbacks import NonFiniteGuard, StepLog
from isdfine.solver.progress import Progress
from isdfine.solver.resources import peak_memory
from isdfine.solver.train import StepReport
from solver.test_training import assert_same_weights, lines, run_micro

SMALL = "epoches=1"
ALL_KINDS = "distillers=[{type: GOLSD}, {type: AttentionDistillation, cross_mode: levels}]"


class Records:
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int, dict[str, float]]] = []

    def write(self, kind: str, step: int, values: Any, **place: Any) -> None:
        self.found.append((kind, step, dict(values)))

    def close(self) -> None:
        """Nothing to close."""


def test_a_line_carries_the_diagnostics_of_its_step() -> None:
    records, asked = Records(), []

    def diagnose(context: Any) -> Any:
        asked.append(context)
        return {
            "iou": WeightedMean(torch.tensor(3.0), torch.tensor(4.0)),
            "none": WeightedMean(torch.tensor(0.0), torch.tensor(0.0)),
        }

    log = StepLog([records], NonFiniteGuard(), 2, diagnose)
    report = StepReport({"loss_a": torch.tensor(0.1)}, torch.tensor(1.0), 0.1)
    for step in (1, 2, 3):
        log.watch(step, step)  # type: ignore[arg-type]
        log.observe(report)
        if log.due(step):
            log.line(report, Progress(0, step, step), 3)
    assert asked == [2]
    assert [(kind, step) for kind, step, _ in records.found] == [("train", 2), ("diagnostics", 2)]
    assert records.found[0][2]["loss_a"] == pytest.approx(0.1)
    assert records.found[1][2] == {"iou": 0.75}


def test_a_restart_forgets_what_was_seen() -> None:
    records = Records()
    log = StepLog([records], NonFiniteGuard(), 1, lambda _: {"iou": WeightedMean(torch.tensor(1.0), torch.tensor(1.0))})
    report = StepReport({"loss_a": torch.tensor(0.1)}, None, 0.1)
    log.watch(None, 1)  # type: ignore[arg-type]
    log.restart()
    log.observe(report)
    log.line(report, Progress(0, 1, 1), 1)
    assert [kind for kind, _, _ in records.found] == ["train"]


def test_what_is_not_finite_is_named(caplog: pytest.LogCaptureFixture) -> None:
    records = Records()
    measured = {
        "iou": WeightedMean(torch.tensor(1.0), torch.tensor(1.0)),
        "kl": WeightedMean(torch.tensor(torch.nan), torch.tensor(1.0)),
    }
    log = StepLog([records], NonFiniteGuard(active=False), 1, lambda _: measured)
    report = StepReport({"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(torch.inf)}, torch.tensor(1.0), 0.1)
    log.watch(None, 1)  # type: ignore[arg-type]
    log.observe(report)
    log.line(report, Progress(0, 1, 1), 1)
    assert "step 1: not finite, and so not in the metrics: loss_b, kl" in caplog.text
    assert [sorted(values) for _, _, values in records.found] == [
        ["grad_norm", "loss_a", "lr", *peak_memory(torch.device("cpu")), "seconds_per_step"],
        ["iou"],
    ]


@pytest.mark.parametrize("options", [[], [ALL_KINDS, "precision=bf16"]], ids=["plain", "attention, bf16"])
def test_the_trajectory_is_the_same_without_them(tmp_path: Path, options: list[str]) -> None:
    config = write_micro_config(tmp_path)
    for name, choice in (("on", "true"), ("off", "false")):
        run_micro(config, SMALL, *options, f"diagnostics={choice}", f"output_dir={tmp_path / name}")
    assert_same_weights(tmp_path / "on" / "last.pth", tmp_path / "off" / "last.pth")
    assert [line["step"] for line in lines(tmp_path / "on", "diagnostics")] == [1, 2]
    assert not lines(tmp_path / "off", "diagnostics")
    on, off = (lines(tmp_path / name) for name in ("on", "off"))
    assert [record["loss"] for record in on] == [record["loss"] for record in off]
    entropies = [name for name in lines(tmp_path / "on", "diagnostics")[0] if "attention_entropy" in name]
    kinds = ("", "cross_") if options else ("",)  # sampling points only where a distiller compares them
    assert entropies == [f"{kind}attention_entropy_layer_{i}" for kind in kinds for i in (0, 1)]


def test_pairs_that_the_entropy_guard_skips_are_told(tmp_path: Path) -> None:
    guard = "distillers=[{type: AttentionDistillation, entropy_guard: true, ramp: [0, 0]}]"
    run_micro(write_micro_config(tmp_path), SMALL, guard)
    train, seen = lines(tmp_path / "run")[-1], lines(tmp_path / "run", "diagnostics")[-1]
    uninformative = seen["attention_entropy_layer_1"] > 0.98 * math.log(8)
    assert seen["attn_kept_0"] == float(not uninformative)
    assert (train["loss_attn_0"] == 0) == uninformative


def test_tensorboard_shows_them_under_their_own_heading(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_micro(write_micro_config(tmp_path), SMALL, "tensorboard=true", "distillers=[]")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    record = lines(tmp_path / "run", "diagnostics")[-1]
    assert {
        "iou_layer_0",
        "iou_dn_layer_1",
        "km",
        "ku",
        "kl_matched_layer_0_from_1",
        "entropy_layer_1",
    } <= record.keys()
    assert events.Scalars("diagnostics/iou_layer_0")[-1].value == pytest.approx(record["iou_layer_0"])
