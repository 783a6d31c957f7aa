# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Whole runs with attention-weight self-distillation: resumed, distributed, switched off."""

from pathlib import Path

import pytest
import torch

import isdfine
from builders import load_tool, write_micro_config
from isdfine.solver.fit import fit
from isdfine.solver.train import StopTraining
from isdfine.solver.training import Training
from solver.test_training import Launch, assert_same_weights, lines, run_micro

ATTENTION = "type: AttentionDistillation, ramp: [0.25, 0.5], query_subsample: 3, cross_mode: levels"


def distillers(more: str = "") -> str:
    return f"distillers=[{{type: GOLSD}}, {{{ATTENTION}{more}}}]"


@pytest.mark.slow
def test_a_resumed_run_takes_the_same_rows(tmp_path: Path) -> None:
    """Rows are chosen by the step, not by what was drawn since the start."""
    torch.set_num_threads(1)
    config = write_micro_config(tmp_path)
    common = ("save_every_steps=1", "epoches=4", distillers())
    run_micro(config, *common, f"output_dir={tmp_path / 'whole'}")
    part = tmp_path / "part"
    run = Training(isdfine.load_config(config, [*common, f"output_dir={part}"]))
    original = run.save

    def save_then_stop(*paths: Path) -> None:
        original(*paths)
        if run.progress.step == 5:
            raise StopTraining

    run.save = save_then_stop  # type: ignore[method-assign]
    with pytest.raises(StopTraining):
        fit(run)
    run_micro(config, *common, f"output_dir={part}", resume=part)
    assert_same_weights(tmp_path / "whole" / "last.pth", part / "last.pth")
    seen = [line["loss_attn_0"] for line in lines(tmp_path / "whole")]
    assert seen[:3] == [0, 0, 0], "until a quarter of the eight steps is done"
    assert all(loss > 0 for loss in seen[3:])
    assert all(line["loss_attn_cross_0"] > 0 for line in lines(tmp_path / "whole")[3:])


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["false", "true"])
def test_a_rank_without_any_object_runs_the_same_graph(tmp_path: Path, guard: str) -> None:
    config = write_micro_config(tmp_path, boxes=(2, 0))
    updates = ["-u", "train_dataloader.shuffle=false", "train_dataloader.total_batch_size=2", "epoches=1"]
    more = f", queries: all, row_weight: matched_only, entropy_guard: {guard}, temperature: 4"
    updates += [distillers(more).replace("[0.25, 0.5], query_subsample: 3", "[0, 0]")]
    Launch(config, *updates, processes=2).succeed()
    rows = lines(tmp_path / "run")
    assert len(rows) == 4
    found = [row["loss_attn_0"] for row in rows]
    if guard == "false":
        assert min(found) > 0
    else:  # the first maps of a run say next to nothing
        kept = [row["attn_kept_0"] for row in lines(tmp_path / "run", "diagnostics")]
        assert (found, kept) == ([0] * 4, [0] * 4)


@pytest.mark.slow
def test_until_the_ramp_begins_a_run_is_the_same(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = write_micro_config(tmp_path)
    late = distillers().replace("ramp: [0.25, 0.5]", "ramp: [1, 1]")
    for name, update in (("plain", "distillers=[{type: GOLSD}]"), ("late", late)):
        run_micro(config, "epoches=2", update, f"output_dir={tmp_path / name}")
    assert_same_weights(tmp_path / "plain" / "last.pth", tmp_path / "late" / "last.pth")


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_micro_config(tmp_path)
    updates = ["distillers=[{type: AttentionDistillation, row_weight: conf}]", "DFINETransformer.aux_loss=false"]
    assert load_tool("train").main(["-c", str(config), "-u", *updates]) == 2
    message = "distillers.0: AttentionDistillation.row_weight: conf reads the predictions of all 2 decoder layers"
    assert message in capsys.readouterr().err
