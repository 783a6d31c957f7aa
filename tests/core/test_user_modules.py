# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isdfine.core.config import Config, load_config
from isdfine.core.errors import ConfigError
from isdfine.core.registry import Registry, UserModules


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What a test loads is gone after it."""
    modules, finders = set(sys.modules), list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        if name.startswith("user_"):
            del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(path: Path, *overrides: str) -> Config:
    return load_config(path, overrides, registry=Registry())


def test_beside_the_file_then_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path / "work" / "user_here.py", "WHERE = 'work'").parent)
    write(tmp_path / "work" / "user_both.py", "WHERE = 'work'")
    write(tmp_path / "cfg" / "user_both.py", "import user_sibling\nWHERE = 'beside'")
    write(tmp_path / "cfg" / "user_sibling.py", "")
    write(tmp_path / "cfg" / "user_pkg" / "__init__.py", "")
    write(tmp_path / "cfg" / "user_pkg" / "parts.py", "from . import other")
    write(tmp_path / "cfg" / "user_pkg" / "other.py", "")
    write(tmp_path / "cfg" / "user_plain" / "parts.py", "")
    base = write(tmp_path / "cfg" / "base.yml", "imports: [user_both, user_here, user_pkg.parts, user_plain.parts]")
    main = write(tmp_path / "main" / "run.yml", "__include__: ../cfg/base.yml")
    config = load(main)
    assert [sys.modules[name].WHERE for name in ("user_both", "user_here")] == ["beside", "work"]
    assert {"user_sibling", "user_pkg.parts", "user_pkg.other", "user_plain.parts"} <= set(sys.modules)
    cfg = tmp_path / "cfg"
    names = [f"{cfg}/user_both", "user_here", f"{cfg}/user_pkg.parts", f"{cfg}/user_plain.parts"]
    assert config.get("imports") == names
    before = sys.modules["user_both"]
    assert (
        load(write(tmp_path / "output" / "config.yml", config.dump())).get("imports") == names
    )  # found from there too
    assert load(base, "seed=1").get("imports") == names
    assert sys.modules["user_both"] is before


def test_paths_of_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine" / "user_part.py", "LOADED = True")
    config = load(write(tmp_path / "cfg" / "run.yml", "imports: [../mine/user_part.py]"))
    assert config.get("imports") == ["mine/user_part"]
    assert load(write(tmp_path / "a.yml", ""), "imports=[mine/user_part.py]").get("imports") == ["mine/user_part"]
    assert sys.modules["user_part"].LOADED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import torch\n1 / 0\n", r"user_bad.py:2: ZeroDivisionError: division by zero$"),
        ("def f(:\n", r"user_bad.py:1: SyntaxError: invalid syntax$"),
        ("import user_gone\n", r"user_bad.py:1: ModuleNotFoundError: No module named 'user_gone'$"),
        ("\nimport os\nos.environ['user_gone']\n", r"user_bad.py:3: KeyError: 'user_gone'$"),
        ("\nraise SystemExit(3)\n", r"user_bad.py:2: SystemExit: 3$"),
        ("raise ValueError('a\\nb')\n", r"user_bad.py:1: ValueError: a b$"),
        ("x = '\0'\n", r"(SyntaxError|ValueError): source code (string )?cannot contain null bytes"),
        (None, r"no module 'user_bad' in \S+, \S+ or on Python's path$"),
    ],
)
def test_a_module_with_an_error_is_one_line(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        write(tmp_path / "user_bad.py", text)
    with pytest.raises(ConfigError, match=rf"run.yml:1: imports: user_bad: .*{message}") as caught:
        load(write(tmp_path / "run.yml", "imports: [user_bad]"))
    assert "\n" not in str(caught.value)
    assert "user_bad" not in sys.modules


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("''", r"'' is no name of a module: write parts, package.parts or folder/parts.py$"),
        ("a b", r"'a b' is no name of a module"),
        ("gone/user_part.py", r"no such module in \S+/gone or \S+/gone$"),
        ("json", r"ImportError: the name json is taken by .*: rename .*json.py$"),
        ("user_folder", r"user_folder: a folder without __init__.py: name a module in it, such as user_folder.parts$"),
        ("user_folder.py", r"a folder without __init__.py: name a module in it, such as user_folder.parts$"),
    ],
)
def test_entries_that_cannot_be_meant(entry: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "json.py", "")
    write(tmp_path / "user_folder" / "parts.py", "")
    with pytest.raises(ConfigError, match=rf"run.yml:1: imports: .*{message}"):
        load(write(tmp_path / "run.yml", f"imports: [{entry}]"))


def test_another_process_loads_them_before_their_objects(tmp_path: Path) -> None:
    write(tmp_path / "user_op.py", "class Op:\n    side = 3\n")
    load(write(tmp_path / "run.yml", "imports: [user_op]"))
    data = tmp_path / "data.pickle"
    data.write_bytes(pickle.dumps({"modules": UserModules(), "op": sys.modules["user_op"].Op()}))
    code = f"import pickle; print(pickle.load(open({str(data)!r}, 'rb'))['op'].side)"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert done.stdout == "3\n", done.stderr
