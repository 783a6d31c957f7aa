# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import errno
from pathlib import Path

import pytest

from isdfine.core import lock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    assert not lock.is_locked(path)
    assert not path.parent.exists()  # asking writes nothing
    held = lock.take(path)
    assert held is not None
    assert lock.is_locked(path)
    assert lock.take(path, patience_s=0.05) is None  # another open file is another holder, in one process too
    held.close()
    assert not lock.is_locked(path)
    again = lock.take(path)
    assert again is not None
    again.close()


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    held = lock.take(tmp_path / "lock")
    assert held is not None
    held.close()
    (record,) = caplog.records
    assert record.getMessage().endswith("lock cannot be locked (No locks available): nothing keeps a second run out")
    assert not lock.is_locked(tmp_path / "lock")
