# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import ast
import re
import sys
from pathlib import Path

import pytest

from builders import ROOT
from isdfine.core.errors import ConfigError
from isdfine.core.extras import need


def test_what_is_there_is_imported() -> None:
    assert need("os.path", "export").join("a", "b") == "a/b"


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r'^onnx is not installed: pip install "isdfine\[export\]"$'):
        need("onnx", "export")
    monkeypatch.setitem(sys.modules, "onnx.helper", None)
    with pytest.raises(ConfigError, match=r'^onnx is not installed: pip install "isdfine\[export\]"$'):
        need("onnx.helper", "export")
    with pytest.raises(ConfigError, match=r"^package_x is not installed: pip install package_x$"):
        need("package_x.part")
    with pytest.raises(ConfigError, match=r"^package_x is not installed: pip install x-package \(several GB\)$"):
        need("package_x", install="x-package (several GB)")


def test_an_installed_package_that_fails_is_not_told_to_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import a_module_that_is_missing")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"installed and fails to import .*a_module_that_is_missing") as error:
        need("broken_package", "plots")
    assert "pip install" not in str(error.value)


def test_every_extra_that_is_named_has_the_package() -> None:
    sections: dict[str, set[str]] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line.startswith("# ["):
            names = sections.setdefault(line[3 : line.index("]")], set())
        else:
            names.add(re.split(r"\W", line, maxsplit=1)[0])
    calls = [call for file in (ROOT / "src").rglob("*.py") for call in calls_of_need(file)]
    assert {extra for _, extra in calls} >= {"export", "plots", "log", "video", "timm"}
    for module, extra in calls:
        package = module.split(".")[0].replace("google", "onnx")  # protobuf, which onnx installs
        assert package in sections[extra], (module, extra)


def calls_of_need(file: Path) -> list[tuple[str, str]]:
    """Module and extra of every call of need in a file that names an extra."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "need"]
    said = [[word.value for word in call.args if isinstance(word, ast.Constant)] for call in named]
    return [(words[0], words[1]) for words in said if len(words) == 2]
