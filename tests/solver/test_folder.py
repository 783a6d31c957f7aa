# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.solver.folder import RunFolder, checkpoint_file


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.check_free()
    folder.create("epoches: 1\n")
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
