# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import errno
from pathlib import Path

import pytest

from isdfine.core import files
from isdfine.core.files import is_locked, take_lock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    assert not is_locked(path)
    assert not path.parent.exists()  # asking writes nothing
    held = take_lock(path)
    assert held is not None
    assert is_locked(path)
    assert take_lock(path, patience_s=0.05) is None  # another open file is another holder, in one process too
    held.close()
    assert not is_locked(path)
    again = take_lock(path)
    assert again is not None
    again.close()


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    held = take_lock(tmp_path / "lock")
    assert held is not None
    held.close()
    (record,) = caplog.records
    assert record.getMessage().endswith("lock cannot be locked (No locks available): nothing keeps a second run out")
    assert not is_locked(tmp_path / "lock")
