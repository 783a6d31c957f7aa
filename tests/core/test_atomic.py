# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import os

import pytest

from isdfine.core.files import whole_file


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_takes_its_name_when_it_is_complete(tmp_path, durable):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path, durable=durable) as partial:
        partial.write_text("half")
        assert not path.exists()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "half"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("other")])
def test_nothing_is_left_of_an_interrupted_write(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("earlier")

    def write():
        with whole_file(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "earlier"


def test_a_failed_rename_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"), whole_file(path) as partial:
        partial.write_text("half")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
