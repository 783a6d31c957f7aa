# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.core.files import is_locked, take_lock
from isdfine.load import checkpoint_file
from isdfine.solver.folder import FolderLock, RunFolder


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.check_free()
    folder.create("epoches: 1\n")
    folder.check_free()
    folder.metrics.write_text("{}")  # a run that failed before its first checkpoint leaves nothing to protect
    folder.check_free()
    folder.last.write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"holds another run \(last\.pth\): continue it with -r .* -u output_dir="):
        folder.check_free()


def test_a_file_cannot_be_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file: choose a folder"):
        RunFolder(tmp_path / "run").check_free()
    with pytest.raises(ConfigError, match="cannot be written"):
        RunFolder(tmp_path / "run" / "below").create("")


def test_a_run_folder_means_its_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pth: no such checkpoint"):
        checkpoint_file(tmp_path)
    (tmp_path / "last.pth").write_bytes(b"x")
    assert checkpoint_file(tmp_path) == tmp_path / "last.pth"
    assert checkpoint_file(tmp_path / "last.pth") == tmp_path / "last.pth"


def test_space_is_checked_beforehand_and_files_to_be_replaced_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300))
    folder.check_space(75)
    with pytest.raises(ConfigError, match=r"0 MiB free, the checkpoints of this run need about 0 MiB: free space or"):
        folder.check_space(100)
    folder.create("")
    folder.last.write_bytes(b"x" * 100)
    folder.check_space(100)


def test_a_folder_of_transformers_is_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert checkpoint_file(tmp_path) == tmp_path


def test_files_of_the_folder_are_written_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    folder.write(folder.load_report, "{}")
    assert [path.name for path in folder.path.iterdir()] == ["load_report.json"]
    folder.check_free()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output_dir .*file cannot be written"):
        RunFolder(tmp_path / "file").write(tmp_path / "file" / "x", "")


def test_one_process_writes_into_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    other = take_lock(folder.lock)
    assert other is not None
    other.write("process 7 on there, since yesterday")
    other.flush()
    for refused in (folder.check_free, folder.check_idle, lambda: FolderLock(folder)):
        with pytest.raises(ConfigError, match=r"run is in use by process 7 on there, since yesterday: wait until that"):
            refused()
    other.close()
    mine = FolderLock(folder)
    assert folder.lock.read_text().startswith(f"process {os.getpid()} on ")
    folder.check_idle()  # a process does not stand in its own way
    later = FolderLock(folder)
    mine.check(1)
    assert is_locked(folder.lock)
    later.release()
    assert not is_locked(folder.lock)
    with pytest.raises(ConfigError, match="cannot be written"):
        FolderLock(RunFolder(folder.lock / "below"))


@pytest.mark.parametrize("anew", [False, True])
def test_a_folder_that_is_gone_is_noticed(tmp_path: Path, anew: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    mine = FolderLock(folder)
    mine.check(1)
    folder.lock.unlink()
    mine.check(1)
    folder.path.rmdir()
    if anew:
        folder.path.mkdir()
    with pytest.raises(CheckpointError, match=r"was deleted or moved while .* at step 7.*continue with -r and the new"):
        mine.check(7)
    mine.release()


def test_what_a_killed_process_had_begun_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for name in (
        "last.pth.tmp",
        "checkpoint0003.pth.tmp",
        "metrics.jsonl.tmp",
        "last.pth",
        "mine.tmp",
        "notes.pth.tmp",
    ):
        (tmp_path / name).write_text("")
    folder.clear_unfinished()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pth", "mine.tmp", "notes.pth.tmp"]
