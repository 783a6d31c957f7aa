# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import pytest

from isdfine.core.environment import require
from isdfine.core.errors import ConfigError


def test_what_is_there_is_imported() -> None:
    assert require("os.path", "this test").join("a", "b") == "a/b"


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match=r"^drawing needs the package supervision: pip install supervision$"):
        require("supervision", "drawing")
    with pytest.raises(ConfigError, match=r"^reading needs the package google_x: pip install protobuf$"):
        require("google_x.protobuf", "reading", "protobuf")


def test_an_installed_package_that_fails_is_not_told_to_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import a_module_that_is_missing")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"installed and fails to import .*a_module_that_is_missing") as error:
        require("broken_package", "drawing")
    assert "pip install" not in str(error.value)
