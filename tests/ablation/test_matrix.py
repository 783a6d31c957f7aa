# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import yaml

from ablation_cases import read_trial, write_trial
from isdfine.ablation.matrix_file import read_matrix
from isdfine.core.errors import ConfigError


def test_all_variants_of_the_first_seed_come_first(tmp_path: Path) -> None:
    labels = [run.label for run in read_trial(tmp_path).runs()]
    assert labels[:6] == [f"{data}/{variant}/seed0" for data in ("small", "large") for variant in "abc"]
    assert labels[6:] == [label.replace("seed0", "seed1") for label in labels[:6]]


def test_what_a_run_is_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matrix = read_matrix(write_trial(Path()), overrides=("device=cpu",))
    runs = {run.label: run for run in matrix.runs()}
    assert runs["small/a/seed1"].arguments() == [
        "-c", "base.yml", "-u", "distillers=[]", "clip_max_norm=5", "device=cpu", "--seed", "1",
        "--output-dir", "out/small/a/seed1",
    ]  # fmt: skip
    assert runs["large/b/seed0"].arguments(Path("out/large/b/seed0/last.pth")) == [
        "-c", "other.yml", "-u", "epoches=3", "device=cpu", "--seed", "0", "--output-dir", "out/large/b/seed0",
        "-r", "out/large/b/seed0/last.pth",
    ]  # fmt: skip
    set_by_key = ("optimizer.lr=0.001", 'distillers=[{"type": "GOLSD"}]')
    assert runs["small/c/seed0"].overrides == (*set_by_key, "device=cpu")
    assert (matrix.judge, matrix.metrics, matrix.baseline) == ("best", ("AP", "AR100"), "b")


def test_included_files_are_put_on_top_of_the_base_in_one_file(tmp_path: Path) -> None:
    matrix = read_trial(tmp_path, output_dir=str(tmp_path / "elsewhere"))
    matrix.write_composed()
    run = next(run for run in matrix.runs() if run.label == "large/c/seed0")
    assert run.config == tmp_path / "elsewhere" / "composed" / "large" / "c.yml"
    assert yaml.safe_load(run.config.read_text()) == {
        "__include__": [str(tmp_path / "other.yml"), str(tmp_path / "more.yml")]
    }
    assert len(list(tmp_path.rglob("composed/**/*.yml"))) == 2  # variants without includes need none


def test_a_part_can_be_selected(tmp_path: Path) -> None:
    matrix = read_trial(tmp_path)
    assert [run.label for run in matrix.selected(["c"], [1])] == ["small/c/seed1", "large/c/seed1"]
    assert len(matrix.selected(None, None)) == 12
    with pytest.raises(ConfigError, match=r"--only bb: .*trial.yml has no such variant; known: a, b, c"):
        matrix.selected(["bb"], None)
    with pytest.raises(ConfigError, match=r"--seeds 4: .*trial.yml lists the seeds 0, 1: add it there"):
        matrix.selected(None, [4])
