# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from isdfine.ablation.run_status import (
    config_hash,
    differences_of,
    final_evaluation,
    read_records,
    run_status,
    same_value,
    saved_step,
)
from isdfine.core.errors import ConfigError
from isdfine.solver.folder import RunFolder

CONFIG: dict[str, Any] = {"epoches": 2, "seed": 1, "optimizer": {"lr": 0.1}, "num_classes": None, "tuning": None}


def record(epoch: int, kind: str = "val") -> str:
    return json.dumps({"kind": kind, "step": 10 * (epoch + 1), "epoch": epoch, "AP": 0.1 * epoch}) + "\n"


def make(
    path: Path, *, epochs: int = 2, config: dict[str, Any] | None = None, checkpoint: str = "last.pth"
) -> RunFolder:
    folder = RunFolder(path)
    path.mkdir()
    folder.config.write_text(yaml.safe_dump({**CONFIG, "num_classes": 3, "output_dir": "x", **(config or {})}))
    folder.metrics.write_text("".join(record(index) for index in range(epochs)))
    if checkpoint:
        (path / checkpoint).write_bytes(b"")
    return folder


def test_states(tmp_path: Path) -> None:
    assert run_status(RunFolder(tmp_path / "none"), CONFIG).state == "absent"
    assert run_status(make(tmp_path / "a"), CONFIG).state == "done"
    half = run_status(make(tmp_path / "b", epochs=1), CONFIG)
    assert (half.state, half.resume) == ("interrupted", tmp_path / "b" / "last.pth")
    # best.pth is written before last.pth, and holds as much
    only_best = run_status(make(tmp_path / "c", epochs=1, checkpoint="best.pth"), CONFIG)
    assert (only_best.state, only_best.resume) == ("interrupted", tmp_path / "c" / "best.pth")
    assert run_status(make(tmp_path / "d", epochs=1, checkpoint=""), CONFIG).state == "absent"
    assert run_status(make(tmp_path / "e", checkpoint=""), CONFIG).state == "done"  # deleted to save space


def test_a_run_that_was_killed_between_its_evaluation_and_its_saving_is_not_done(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", checkpoint="")
    torch.save({"progress": {"step": 10}, "model": {"w": torch.zeros(3)}}, folder.last)
    status = run_status(folder, CONFIG)  # the final evaluation is that of step 20
    assert (status.state, status.resume) == ("interrupted", folder.last)
    torch.save({"progress": {"step": 20}}, folder.last)
    assert run_status(folder, CONFIG).state == "done"
    assert saved_step(folder.last) == 20
    torch.save({"model": {}}, folder.last)  # weights alone, to save space
    assert saved_step(folder.last) is None
    assert run_status(folder, CONFIG).state == "done"


def test_a_training_line_of_the_last_epoch_is_no_final_evaluation(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", epochs=1)
    folder.metrics.write_text(record(0) + record(1, "train"))
    assert run_status(folder, CONFIG).state == "interrupted"
    assert final_evaluation(folder, CONFIG) is None
    assert final_evaluation(folder, {"epoches": 1}) == json.loads(record(0))


def test_a_changed_config_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", config={"optimizer": {"lr": 0.2, "eps": 1}, "precision": "bf16"})
    status = run_status(folder, CONFIG)
    assert status.state == "done"
    assert status.differences == (
        "optimizer.eps: 1 there, '(absent)' here",
        "optimizer.lr: 0.2 there, 0.1 here",
        "precision: 'bf16' there, '(absent)' here",
    )
    assert status.complaint == "; ".join(status.differences)


def test_many_differences_are_cut_short() -> None:
    from isdfine.ablation.run_status import RunStatus

    assert RunStatus("done", tuple("abcdefghij")).complaint == "a; b; c; d; e; f; g; h; and 2 more"


def test_what_changes_no_number_is_no_difference() -> None:
    saved = {
        "output_dir": "a", "print_freq": 1, "tensorboard": False, "num_classes": 3, "device": "cpu",
        "train_dataloader": {"num_workers": 0, "dataset": {"ann_file": "/mnt/data/bccd/train.json"}},
        "x": [1, {"y": 2.0}],
    }  # fmt: skip
    expected = {
        "output_dir": "b", "save_every": 3, "diagnostics": False, "num_classes": None, "x": [1, {"y": 2}],
        "train_dataloader": {"num_workers": 4, "dataset": {"ann_file": "./data/bccd/train.json"}},
    }  # fmt: skip
    assert list(differences_of(saved, expected)) == []
    assert list(differences_of({**saved, "x": [1]}, expected)) == ["x.1.y: '(absent)' there, 2 here"]
    assert list(differences_of({**saved, "num_classes": 4}, {**expected, "num_classes": 3})) != []
    assert list(differences_of({"distillers": []}, {})) == ["distillers: [] there, '(absent)' here"]


@pytest.mark.parametrize(
    ("first", "other", "same"),
    [
        ("./data/a.json", "/work/shared/data/a.json", True),
        ("/work/shared/data/a.json", "data/a.json", True),
        ("./data/a/", "data/a", True),
        ("./data/a.json", "/work/shared/old_data/a.json", False),
        ("./data/a.json", "/work/shared/data/b.json", False),
        ("/one/data/a.json", "/other/data/a.json", False),
        ("a", "b", False),
        (1, 1.0, True),
        (1, True, False),
        (None, 0, False),
        ("1", 1, False),
    ],
)
def test_same_value(first: Any, other: Any, same: bool) -> None:
    assert same_value(first, other) is same


def test_two_names_of_one_file_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("")
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    assert same_value(str(tmp_path / "a.json"), str(tmp_path / "b.json"))


def test_another_starting_checkpoint_is_a_difference(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    folder.load_report.write_text(json.dumps({"source": "weights/old.pth"}))
    assert run_status(folder, {**CONFIG, "tuning": "weights/new.pth"}).differences == (
        "tuning: 'weights/old.pth' there, 'weights/new.pth' here",
    )
    assert run_status(folder, {**CONFIG, "tuning": "weights/old.pth"}).differences == ()
    folder.load_report.write_text(json.dumps({"source": "runs/one/last.pth"}))
    assert run_status(folder, {**CONFIG, "tuning": "runs/one"}).differences == ()
    assert run_status(make(tmp_path / "b"), {**CONFIG, "tuning": "w.pth"}).differences == (
        "tuning: None there, 'w.pth' here",
    )


def test_a_checkpoint_without_a_config_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    folder.config.unlink()
    with pytest.raises(ConfigError, match=r"holds last.pth but no config.yml: move the folder away"):
        run_status(folder, CONFIG)
    folder.last.unlink()
    with pytest.raises(ConfigError, match=r"holds metrics.jsonl but no config.yml: move the folder away"):
        run_status(folder, CONFIG)


def test_a_cut_last_line_is_left_out_and_a_broken_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(record(0) + record(1)[:20])
    assert [record["epoch"] for record in read_records(path)] == [0]
    path.write_text(record(0)[:20] + "\n" + record(1))
    with pytest.raises(ConfigError, match=r"metrics.jsonl:1: not a record of a run: .*restore the file"):
        read_records(path)
    assert read_records(tmp_path / "absent.jsonl") == []


def test_the_hash_names_a_config_whatever_its_seed_and_folder() -> None:
    assert config_hash({**CONFIG, "seed": 5, "output_dir": "y"}) == config_hash(CONFIG)
    assert config_hash({**CONFIG, "optimizer": {"lr": 0.3}}) != config_hash(CONFIG)
