# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import isdfine
from ablation_cases import finish, write_matrix
from builders import write_micro_config
from isdfine.ablation import results as module
from isdfine.ablation.layers import LayerResults
from isdfine.ablation.matrix import Matrix
from isdfine.ablation.matrix_file import read_matrix
from isdfine.ablation.results import Configs, collect
from isdfine.core.errors import ConfigError


def trained(folder: Path, **changes: Any) -> tuple[Matrix, Configs]:
    """The micro matrix with all runs finished: AP 0.1 * seed in the first epoch, 0.05 less in the second."""
    write_micro_config(folder)
    matrix, configs = read_matrix(write_matrix(folder, **changes)), Configs(isdfine.load_config)
    for run in matrix.runs():
        finish(run, configs.plain(run), [0.1 * (run.seed + 1), 0.1 * (run.seed + 1) - 0.05])
    return matrix, configs


def test_the_last_evaluation_counts_unless_the_best_is_asked_for(tmp_path: Path) -> None:
    matrix, configs = trained(tmp_path)
    collected = collect(matrix, configs, layers="leave out")
    assert [outcome.stats["AP"] for outcome in collected.of("", "slow").values()] == pytest.approx([0.05, 0.15, 0.25])
    one = collected.outcomes[0]
    assert (one.epoch, one.step, one.seconds_per_step) == (1, 4, pytest.approx(0.15))
    assert [(step, stats["AP50"]) for step, stats in one.curve] == [(2, pytest.approx(0.3)), (4, pytest.approx(0.25))]
    assert set(one.stats) == {"AP", "AP50", "APl"}
    assert one.peak_mib == ("resident", 700.0)  # of all attempts, not of the last
    shutil.rmtree(tmp_path / "out")
    best = collect(*trained(tmp_path, judge="best"), layers="leave out")
    assert [(outcome.epoch, outcome.step) for outcome in best.outcomes] == [(0, 2)] * 6
    assert [outcome.stats["AP"] for outcome in best.of("", "slow").values()] == pytest.approx([0.1, 0.2, 0.3])


def test_variants_share_a_hash_over_seeds_and_differ_from_each_other(tmp_path: Path) -> None:
    hashes = [outcome.config_hash for outcome in collect(*trained(tmp_path), layers="leave out").outcomes]
    assert len(set(hashes)) == 2
    assert len({*hashes[::2]}) == 1


def test_runs_that_cannot_be_used_are_listed_with_the_reason(tmp_path: Path) -> None:
    matrix, configs = trained(tmp_path)
    runs = {run.label: run.folder for run in matrix.runs()}
    shutil.rmtree(runs["plain/seed0"].path)
    shutil.rmtree(runs["plain/seed1"].path)
    runs["plain/seed1"].path.mkdir()
    (runs["plain/seed1"].path / "train.log").write_text("")
    lines = runs["plain/seed2"].metrics.read_text().splitlines(keepends=True)
    runs["plain/seed2"].metrics.write_text("".join(lines[:2]))
    runs["plain/seed2"].last.write_bytes(b"")
    text = runs["slow/seed0"].config.read_text()
    runs["slow/seed0"].config.write_text(text.replace("lr: 0.0005", "lr: 0.0007"))
    collected = collect(matrix, configs, layers="leave out")
    assert collected.missing == {
        "plain/seed0": "not run",
        "plain/seed1": f"ended before its first checkpoint: see {runs['plain/seed1'].path / 'train.log'}",
        "plain/seed2": "interrupted: start the ablation again to go on with it",
        "slow/seed0": "made from another config: optimizer.lr: 0.0007 there, 0.0005 here",
    }
    assert [outcome.run.label for outcome in collected.outcomes] == ["slow/seed1", "slow/seed2"]


def test_why_a_run_failed_and_that_one_is_in_training_is_said(tmp_path: Path) -> None:
    matrix, configs = trained(tmp_path)
    first, second, *_ = matrix.runs()
    for run in (first, second):
        shutil.rmtree(run.folder.path)
    first.folder.path.mkdir()
    log = first.folder.path / "train.log"
    log.write_text("$ python\nerror: step 7: loss_vfl is nan\n# ended with exit code 2 after 0.1 min\n")
    held = second.lock()
    assert held is not None
    with held:
        missing = collect(matrix, configs, layers="leave out").missing
    assert missing == {
        "plain/seed0": f"failed: ended with exit code 2 after 0.1 min: error: step 7: loss_vfl is nan; see {log}",
        "slow/seed0": "in training at this moment",
    }


def test_a_metric_that_is_no_number_is_never_averaged(tmp_path: Path) -> None:
    matrix, configs = trained(tmp_path)
    metrics = matrix.runs()[0].folder.metrics
    metrics.write_text(metrics.read_text().replace('"AP": 0.05', '"AP": NaN'))
    collected = collect(matrix, configs, layers="leave out")
    assert collected.missing == {"plain/seed0": "finished, but its AP is no number"}
    assert len(collected.outcomes) == 5
    best = collect(replace(matrix, judge="best"), configs, layers="leave out")  # its first evaluation is one
    assert best.missing == {}
    assert best.of("", "plain")[0].stats["AP"] == pytest.approx(0.1)


def test_losses_that_were_skipped_and_variants_that_are_one_are_noted(tmp_path: Path) -> None:
    # the twin's override changes no number
    variants = {"plain": {}, "slow": {"set": ["optimizer.lr=0.0005"]}, "twin": {"set": ["print_freq=3"]}}
    matrix, configs = trained(tmp_path, variants=variants)
    metrics = matrix.runs()[1].folder.metrics
    metrics.write_text(metrics.read_text().replace('"loss": 9.0', '"loss": NaN', 1))
    assert collect(matrix, configs, layers="leave out").notes == [
        "plain and twin have the same config: they differ by nothing",
        "slow/seed0: the loss of 1 of its log lines is no number (nonfinite: skip)",
    ]


def test_all_configs_are_checked_at_once(tmp_path: Path) -> None:
    write_micro_config(tmp_path)
    wrong = {"plain": ["optimizer.lrr=1"], "fine": {}, "other": ["DFINETransformer.num_layer=1"]}
    matrix = read_matrix(write_matrix(tmp_path, variants=wrong))
    with pytest.raises(ConfigError) as caught:
        Configs(isdfine.load_config).check(matrix.runs())
    first, second = str(caught.value).splitlines()  # once per variant, not per seed
    assert first.startswith("plain: override 'optimizer.lrr=1': ")
    assert second.startswith("other: override 'DFINETransformer.num_layer=1': ")
    assert "did you mean num_layers?" in second


def test_an_unknown_metric_is_answered_with_those_there_are(tmp_path: Path) -> None:
    matrix, configs = trained(tmp_path, metrics=["AP", "AR7"])
    with pytest.raises(ConfigError, match=r"plain/seed0: its evaluations have no AR7: write one of AP, AP50, APl"):
        collect(matrix, configs, layers="leave out")


def test_a_mistake_in_an_override_names_the_run(tmp_path: Path) -> None:
    write_micro_config(tmp_path)
    matrix = read_matrix(write_matrix(tmp_path, variants={"plain": ["optimizer.lrr=1"]}))
    with pytest.raises(ConfigError, match=r"plain/seed0: override 'optimizer.lrr=1': .*did you mean lr\?"):
        collect(matrix, Configs(isdfine.load_config))


def test_layers_come_from_the_weights_that_were_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, configs = trained(tmp_path)
    asked: list[Path] = []

    def measured(_config: Any, checkpoint: Path, cache: Path) -> LayerResults:
        asked.append(checkpoint)
        assert cache == checkpoint.parent / "layers.json"
        final = 0.15 if "slow" in str(checkpoint) else 0.1501
        return LayerResults(1, 7, ({"AP": 0.1}, {"AP": final}, {"AP": 0.5}))

    monkeypatch.setattr(module, "cached_layers", measured)
    collected = collect(matrix, configs)
    assert asked == [run.folder.last for run in matrix.runs()]
    by_label = {outcome.run.label: outcome.layers for outcome in collected.outcomes}
    assert by_label["plain/seed1"] is not None  # AP 0.15, with a little rounding
    assert by_label["plain/seed0"] is None  # judged with AP 0.05: these are other weights
    assert collected.notes[0] == (
        "plain/seed0: its layers are left out: last.pth gives AP 15.01 but the evaluation that counts 5.00; it holds "
        "other weights (a second stage that went back, other data)"
    )
    asked.clear()
    collect(read_matrix(write_matrix(tmp_path, judge="best")), configs)
    assert {path.name for path in asked} == {"best.pth"}


def test_known_layers_are_used_without_measuring(tmp_path: Path) -> None:
    matrix, configs = trained(tmp_path)
    run, other = matrix.runs()[:2]
    stats = [{"AP": 0.01}, {"AP": 0.05}]
    (run.folder.path / "layers.json").write_text(
        json.dumps({"of": {"any": 1}, "answers": 1, "parameters": 7, "stats": stats})  # of a file that is deleted
    )
    (other.folder.path / "layers.json").write_text("{")
    collected = collect(matrix, configs, layers="known")
    assert collected.outcomes[0].layers == LayerResults(1, 7, tuple(stats))
    assert all(outcome.layers is None for outcome in collected.outcomes[1:])
    (note,) = collected.notes
    assert note.startswith("slow/seed0: no AP over layers: ")
    assert "layers.json: cannot be read" in note
    assert note.endswith("delete it, and it is measured again")


def test_a_run_killed_between_its_two_savings_is_measured_from_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, configs = trained(tmp_path, seeds=[0])
    whole, early = (run.folder for run in matrix.runs())
    torch.save({"progress": {"step": 4}}, whole.best)
    torch.save({"progress": {"step": 2}}, early.best)
    asked: list[Path] = []

    def measured(_config: Any, checkpoint: Path, _cache: Path) -> LayerResults:
        asked.append(checkpoint)
        return LayerResults(0, 7, ({"AP": 0.05},))

    monkeypatch.setattr(module, "cached_layers", measured)
    collect(matrix, configs)
    assert asked == [whole.best, early.last]


def test_a_missing_checkpoint_is_noted_and_the_run_still_counts(tmp_path: Path) -> None:
    collected = collect(*trained(tmp_path))
    assert len(collected.outcomes) == len(collected.notes) == 6
    assert collected.notes[0].startswith("plain/seed0: no AP over layers: ")
    assert "last.pth is gone" in collected.notes[0]
