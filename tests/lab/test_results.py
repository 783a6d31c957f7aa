# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import shutil
from pathlib import Path
from typing import Any

import pytest

import isdfine
from builders import write_micro_config
from isdfine.core.errors import ConfigError
from isdfine.lab import results as module
from isdfine.lab.layers import LayerResults
from isdfine.lab.matrix import Matrix
from isdfine.lab.matrix_file import read_matrix
from isdfine.lab.results import Configs, collect
from lab.folders import finish, write_matrix


def trained(folder: Path, **changes: Any) -> tuple[Matrix, Configs]:
    """The micro matrix with all runs finished: AP 0.1 * seed in the first epoch, 0.05 less in the second."""
    write_micro_config(folder)
    matrix, configs = read_matrix(write_matrix(folder, **changes)), Configs(isdfine.load_config)
    for run in matrix.runs():
        finish(run, configs.plain(run), [0.1 * (run.seed + 1), 0.1 * (run.seed + 1) - 0.05])
    return matrix, configs


def test_the_last_evaluation_counts_unless_the_best_is_asked_for(tmp_path: Path) -> None:
    matrix, configs = trained(tmp_path)
    found = collect(matrix, configs, layers=False)
    assert [one.stats["AP"] for one in found.of("", "slow").values()] == pytest.approx([0.05, 0.15, 0.25])
    one = found.outcomes[0]
    assert (one.epoch, one.step, one.seconds_per_step) == (1, 4, pytest.approx(0.15))
    assert [(step, stats["AP50"]) for step, stats in one.curve] == [(2, pytest.approx(0.3)), (4, pytest.approx(0.25))]
    assert set(one.stats) == {"AP", "AP50", "APl"}
    shutil.rmtree(tmp_path / "out")
    best = collect(*trained(tmp_path, judge="best"), layers=False)
    assert [(one.epoch, one.step) for one in best.outcomes] == [(0, 2)] * 6
    assert [one.stats["AP"] for one in best.of("", "slow").values()] == pytest.approx([0.1, 0.2, 0.3])


def test_variants_share_a_hash_over_seeds_and_differ_from_each_other(tmp_path: Path) -> None:
    hashes = [one.config_hash for one in collect(*trained(tmp_path), layers=False).outcomes]
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
    found = collect(matrix, configs, layers=False)
    assert found.missing == {
        "plain/seed0": "not run",
        "plain/seed1": f"ended before its first checkpoint: see {runs['plain/seed1'].path / 'train.log'}",
        "plain/seed2": "interrupted: start the ablation again to go on with it",
        "slow/seed0": "made from another config: optimizer.lr: 0.0007 there, 0.0005 here",
    }
    assert [one.run.label for one in found.outcomes] == ["slow/seed1", "slow/seed2"]


def test_an_unknown_metric_is_answered_with_those_there_are(tmp_path: Path) -> None:
    matrix, configs = trained(tmp_path, metrics=["AP", "AR7"])
    with pytest.raises(ConfigError, match=r"plain/seed0: its evaluations have no AR7: write one of AP, AP50, APl"):
        collect(matrix, configs, layers=False)


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
    found = collect(matrix, configs)
    assert asked == [run.folder.last for run in matrix.runs()]
    by_label = {one.run.label: one.layers for one in found.outcomes}
    assert by_label["plain/seed1"] is not None  # AP 0.15, with a little rounding
    assert by_label["plain/seed0"] is None  # judged with AP 0.05: these are other weights
    assert found.notes[0] == (
        "plain/seed0: its layers are left out: last.pth gives AP 15.01 but the evaluation that counts 5.00; it holds "
        "other weights (a second stage that went back, other data)"
    )
    asked.clear()
    collect(read_matrix(write_matrix(tmp_path, judge="best")), configs)
    assert {one.name for one in asked} == {"best.pth"}


def test_a_missing_checkpoint_is_noted_and_the_run_still_counts(tmp_path: Path) -> None:
    found = collect(*trained(tmp_path))
    assert len(found.outcomes) == len(found.notes) == 6
    assert found.notes[0].startswith("plain/seed0: no AP over layers: ")
    assert "last.pth is gone" in found.notes[0]
