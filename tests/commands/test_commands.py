# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The command isdfine: which sub-command it runs, and what it says of a wrong one."""

import ast
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

import isdfine
from isdfine import commands

Isdfine = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Isdfine]:
    """The command with these arguments; exit codes also of argparse."""

    def called(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["/bin/isdfine", *arguments])
        try:
            return commands.main()
        except SystemExit as end:
            return int(end.code or 0)

    yield called
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_help_and_version(run: Isdfine, capsys: pytest.CaptureFixture[str]) -> None:
    for asked in ("-h", "--help", "help"):
        assert run(asked) == 0
        said = capsys.readouterr().out
        assert all(f"\n  {name} " in said for name in commands.COMMANDS)
    assert run() == 2
    assert capsys.readouterr().out == said
    for asked in ("-V", "--version", "version"):
        assert run(asked) == 0
        assert capsys.readouterr().out == f"{isdfine.__version__}\n"


def test_a_command_that_does_not_exist(run: Isdfine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trian", "-c", "x.yml") == 2
    assert (
        capsys.readouterr().err == "error: isdfine has no command 'trian', did you mean train? isdfine -h lists them\n"
    )
    assert run("") == 2
    assert capsys.readouterr().err == "error: isdfine has no command '': isdfine -h lists them\n"


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_help_under_its_own_name(run: Isdfine, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(name, "-h") == 0
    assert capsys.readouterr().out.startswith(f"usage: isdfine {name}")
    assert run(name, "--no-such-option") == 2
    assert f"usage: isdfine {name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "leading"), [("train", []), ("val", ["--test-only"]), ("report", ["report"]), ("visualize", [])]
)
def test_arguments_are_handed_on(run: Isdfine, monkeypatch: pytest.MonkeyPatch, name: str, leading: list[str]) -> None:
    given: list[list[str]] = []
    module = import_module(f"isdfine.commands.{commands.COMMANDS[name].module}")
    entry = "program" if hasattr(module, "program") else "main"
    monkeypatch.setattr(module, entry, lambda arguments: given.append(arguments) or 3)
    assert run(name, "-c", "x.yml") == 3
    assert given == [[*leading, "-c", "x.yml"]]


def test_a_mistake_is_one_line(run: Isdfine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("val", "-c", str(tmp_path / "no.yml"), "-r", "x.pth") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if " INFO " not in line]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {tmp_path / 'no.yml'}")


def test_as_a_module_and_without_torch() -> None:
    """What needs no model starts in a moment: the help of isdfine, and import isdfine."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "isdfine", "-h"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, commands.usage() + "\n")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "isdfine.commands" in imported
    assert not imported & {"torch", "torchvision", "numpy", "scipy", "matplotlib", "onnx"}


def test_every_module_of_the_folder_has_a_command() -> None:
    folder = Path(commands.__file__).parent
    entered = {file.stem for file in folder.glob("*.py") if "main" in functions_of(file)} - {"__init__"}
    assert entered == {command.module for command in commands.COMMANDS.values()}


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}
