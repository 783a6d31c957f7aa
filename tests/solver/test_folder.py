# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.solver.folder import RunFolder, checkpoint_file


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
    assert [one.name for one in folder.path.iterdir()] == ["load_report.json"]
    folder.check_free()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output_dir .*file cannot be written"):
        RunFolder(tmp_path / "file").write(tmp_path / "file" / "x", "")
