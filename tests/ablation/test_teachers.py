# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""AP of teachers: as their own evaluation gives it, once for the same weights and data, and never in passing."""

import json
from pathlib import Path

import pytest
import torch

import isdfine
from ablation_cases import finish, write_matrix
from builders import write_micro_config
from isdfine.ablation import teachers
from isdfine.ablation.matrix_file import read_matrix
from isdfine.ablation.results import Configs, collect
from isdfine.ablation.teachers import cached_teacher
from isdfine.core.config import Config
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.data.evaluate import CocoEvaluator, EvalResult
from isdfine.solver.solver import Evaluation


def fingerprint(evaluator: CocoEvaluator) -> EvalResult:
    """Stands in for COCO's metrics, which are zero for weights that nobody trained."""
    evaluator._read()
    return EvalResult({"AP": float(sum(image.scores.sum() for image in evaluator._seen))}, [], len(evaluator._seen))


@pytest.fixture
def taught(tmp_path: Path) -> Config:
    """A run that learns from weights of another size than its own."""
    path = write_micro_config(tmp_path)
    torch.manual_seed(3)
    larger = Evaluation(
        isdfine.load_config(path, ["DFINETransformer.num_layers=3", "DFINEPostProcessor.num_top_queries=3", "seed=3"])
    )
    content = {"model": larger.model.state_dict(), "config": larger.config.dump()}
    torch.save({**content, "label_space": larger.label_space.to_dict()}, tmp_path / "teacher.pth")
    return isdfine.load_config(path, [f"teacher.checkpoint={tmp_path / 'teacher.pth'}"])


def test_a_teacher_is_judged_as_its_own_run_would_judge_it(
    taught: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CocoEvaluator, "summarize", fingerprint)
    assert cached_teacher(taught, tmp_path, measure=False) is None
    assert not list(tmp_path.glob("teacher_*.json"))
    measured = cached_teacher(taught, tmp_path, measure=True)
    own = Evaluation(
        taught.with_values({"DFINETransformer.num_layers": 3, "DFINEPostProcessor.num_top_queries": 3, "teacher": None})
    )
    own.load(tmp_path / "teacher.pth")
    assert measured == pytest.approx(own.evaluate().stats)
    small = cached_teacher(taught.with_values({"teacher.resize": [96, 96]}), tmp_path, measure=True)
    assert small != measured  # it sees other images


def test_it_is_measured_once_for_the_same_weights_and_data(
    taught: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(teachers, "teacher_metrics", lambda *_: {"AP": 0.1 * len(asked)} | {"n": asked.append(1) or 1})
    first = cached_teacher(taught, tmp_path, measure=True)
    assert cached_teacher(taught, tmp_path, measure=False) == first
    copy = tmp_path / "copy.pth"
    copy.write_bytes((tmp_path / "teacher.pth").read_bytes())
    for same in ({"teacher.checkpoint": str(copy)}, {"optimizer.lr": 1.0, "seed": 7}, {"teacher.alpha": 2.0}):
        assert cached_teacher(taught.with_values(same), tmp_path, measure=False) == first, same
    for other in ({"teacher.precision": "bf16"}, {"val_dataloader.dataset.ann_file": "x.json"}):
        assert cached_teacher(taught.with_values(other), tmp_path, measure=False) is None, other
    copy.write_bytes(copy.read_bytes() + b"0")
    assert cached_teacher(taught.with_values({"teacher.checkpoint": str(copy)}), tmp_path, measure=False) is None
    assert len(asked) == 1
    (kept,) = tmp_path.glob("teacher_*.json")
    kept.write_text("{")
    with pytest.raises(ConfigError, match=r"teacher_.*json: cannot be read .*: delete it, and it is measured again"):
        cached_teacher(taught, tmp_path, measure=True)
    (tmp_path / "teacher.pth").unlink()
    with pytest.raises(CheckpointError, match=r"teacher.pth: no such checkpoint"):
        cached_teacher(taught, tmp_path, measure=True)


def test_other_classes_are_refused(taught: Config, tmp_path: Path) -> None:
    content = torch.load(tmp_path / "teacher.pth", weights_only=True)
    content["label_space"]["names"] = ["zebra", "yak"]
    torch.save(content, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match="was trained on the classes"):
        cached_teacher(taught, tmp_path, measure=True)


def test_a_matrix_asks_each_teacher_once(taught: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def cached(config: Config, folder: Path, *, measure: bool) -> dict[str, float]:
        assert folder == tmp_path / "out"
        asked.append(measure)
        if config.settings.teacher is None:
            raise CheckpointError("gone")
        return {"AP": 0.5}

    monkeypatch.setattr("isdfine.ablation.results.cached_teacher", cached)
    checkpoint = json.dumps(str(tmp_path / "teacher.pth"))
    variants = {"plain": {}, "taught": {"set": [f"teacher.checkpoint={checkpoint}"]}}
    matrix, configs = read_matrix(write_matrix(tmp_path, variants=variants)), Configs(isdfine.load_config)
    for run in matrix.runs():
        finish(run, configs.plain(run), [0.1, 0.1])
    results = collect(matrix, configs, layers="known")
    assert results.missing == {}
    assert asked == [False, False]  # six runs
    assert results.notes == ["plain/seed0: no AP of its teacher: gone"]
    assert [outcome.teacher for outcome in results.of("", "taught").values()] == [{"AP": 0.5}] * 3
    assert [outcome.teacher for outcome in results.of("", "plain").values()] == [None] * 3
