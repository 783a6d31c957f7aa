# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
from pathlib import Path

import pytest

import isdfine
from ablation_cases import finish, write_matrix
from builders import write_micro_config
from isdfine.ablation import ablation
from isdfine.ablation.ablation import check_buildable, commands, pending, put_aside
from isdfine.ablation.matrix import Matrix
from isdfine.ablation.matrix_file import read_matrix
from isdfine.ablation.results import Configs
from isdfine.ablation.runner import Runner
from isdfine.core.environment import setup_logging
from isdfine.core.errors import ConfigError


def micro(folder: Path, **changes: object) -> tuple[Matrix, Configs]:
    write_micro_config(folder)
    return read_matrix(write_matrix(folder, **changes)), Configs(isdfine.load_config)


def test_done_runs_are_skipped_and_interrupted_ones_resumed(tmp_path: Path) -> None:
    matrix, configs = micro(tmp_path)
    runs = matrix.runs()
    finish(runs[0], configs.plain(runs[0]), [0.1, 0.2])
    finish(runs[1], configs.plain(runs[1]), [0.1])
    runs[1].folder.last.write_bytes(b"")
    left = pending(runs, configs)
    assert [(run.label, status.state) for run, status in left] == [
        ("slow/seed0", "interrupted"), ("plain/seed1", "absent"), ("slow/seed1", "absent"), ("plain/seed2", "absent"),
        ("slow/seed2", "absent"),
    ]  # fmt: skip
    first, second, *_ = commands(left, Runner(["train"], configs.plain))
    assert first[-2:] == ["-r", str(runs[1].folder.last)]
    assert second == ["train", *runs[2].arguments()]


def test_a_changed_config_stops_everything_unless_it_is_to_be_redone(tmp_path: Path) -> None:
    matrix, configs = micro(tmp_path)
    for run in matrix.runs()[:2]:
        finish(run, {**configs.plain(run), "epoches": 3}, [0.1, 0.2, 0.3])
    with pytest.raises(ConfigError) as caught:
        pending(matrix.runs(), configs)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("plain/seed0: ")
    assert lines[0].endswith("was made from another config: epoches: 3 there, 2 here")
    assert lines[1].startswith("slow/seed0: ")
    assert lines[2].startswith("nothing was started: run these anew with --redo")

    left = pending(matrix.runs(), configs, redo=True)
    assert len(left) == 6
    assert matrix.runs()[0].folder.path.exists()  # until the runs really begin
    put_aside(left)
    assert sorted(path.name for path in (tmp_path / "out" / "plain").iterdir()) == [".seed0.lock", "seed0.old1"]
    assert (tmp_path / "out" / "plain" / "seed0.old1" / "metrics.jsonl").is_file()
    assert [status.resume for _, status in left] == [None] * 6


def test_a_run_that_is_in_training_is_not_renamed(tmp_path: Path) -> None:
    matrix, configs = micro(tmp_path)
    for run in matrix.runs()[:2]:
        finish(run, {**configs.plain(run), "epoches": 3}, [0.1, 0.2, 0.3])
    left = pending(matrix.runs(), configs, redo=True)
    held = matrix.runs()[1].lock()
    assert held is not None
    with held, pytest.raises(ConfigError, match=r"slow/seed0: another process is training it .*nothing was renamed"):
        put_aside(left)
    assert all(run.folder.path.is_dir() for run in matrix.runs()[:2])


def test_building_says_each_warning_once_and_what_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(_config: object) -> None:
        for level in (logging.INFO, logging.WARNING):
            logging.getLogger("isdfine.solver.training").log(level, "said at %d", level)

    monkeypatch.setattr(ablation, "Training", noisy)
    matrix, configs = micro(tmp_path)
    package = logging.getLogger("isdfine")
    handlers = list(package.handlers)
    setup_logging()
    try:
        check_buildable(pending(matrix.runs(), configs), configs)
        lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
        assert lines == [
            "INFO isdfine.ablation.ablation: plain: is built once to see that it can be",
            "WARNING isdfine.solver.training: said at 30",
            "INFO isdfine.ablation.ablation: slow: is built once to see that it can be",
        ]
        noisy(None)
        assert "said at 20" in capsys.readouterr().err  # afterwards everything is said again
    finally:
        package.handlers[:] = handlers
        package.setLevel(logging.NOTSET)


def test_every_variant_is_built_before_anything_is_trained(tmp_path: Path) -> None:
    variants = {
        "plain": {},
        "heads": {"set": ["DFINETransformer.nhead=3"]},
        "data": {"set": ["val_dataloader.dataset.ann_file=nowhere.json"]},
    }
    matrix, configs = micro(tmp_path, variants=variants, seeds=[0, 1])
    with pytest.raises(ConfigError) as caught:
        check_buildable(pending(matrix.runs(), configs), configs)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2  # once per variant, not per seed; all at once
    assert lines[0].startswith("heads: ")
    assert "nhead" in lines[0] or "heads" in lines[0]
    assert lines[1].startswith("data: nowhere.json")
    assert not (tmp_path / "out").exists()


def test_a_sound_matrix_is_built_without_a_trace(tmp_path: Path) -> None:
    matrix, configs = micro(tmp_path)
    check_buildable(pending(matrix.runs(), configs), configs)
    assert not (tmp_path / "out").exists()
