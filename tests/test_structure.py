# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Guards the shape of the package: who imports whom, how long files and functions are, licence headers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"
FILES = sorted(SRC.rglob("*.py"))
ALL = ("core", "data", "nn", "zoo", "losses", "distill", "optim", "solver", "deploy", "viz")
MAY_IMPORT = {
    "core": ("core",),
    "data": ("core", "data", "nn"),
    "nn": ("core", "nn"),
    "zoo": ("core", "nn", "zoo"),
    "losses": ("core", "nn", "losses"),
    "distill": ("core", "nn", "losses", "distill"),
    "weights": ("core", "data", "weights"),
    "load": ("core", "data", "nn", "zoo", "weights"),
    "optim": ("core", "optim"),
    "solver": ("core", "data", "nn", "zoo", "load", "losses", "distill", "optim", "solver"),
    "deploy": ("core", "data", "nn", "zoo", "load", "deploy", "viz"),
    "viz": ("core", "viz"),
    "api": (*ALL, "__init__", "api", "audit", "components", "load", "weights"),
    "conversion": (*ALL, "__init__", "load", "conversion"),
    "audit": ("core", "data", "viz", "audit"),
    "inference": ("core", "data", "deploy", "viz", "__init__", "inference"),
    "plots": ("core", "data", "nn", "deploy", "viz", "__init__", "plots"),
    "ablation": (*ALL, "__init__", "load", "ablation"),
    "bench": (*ALL, "__init__", "load", "weights", "bench"),
    "commands": (
        *ALL,
        "__init__",
        "api",
        "load",
        "ablation",
        "audit",
        "bench",
        "commands",
        "conversion",
        "inference",
        "plots",
        "weights",
    ),
    "components": ALL,
    "__init__": (*ALL, "api"),
    "__main__": ("commands",),
}
FORBIDDEN_CALLS = ("yaml.unsafe_load", "yaml.load", "sys.path.insert", "sys.path.append")
MAX_FILE = 400
MAX_FUNCTION = 60
LICENCE_LINE = "SPDX-" + "License-Identifier: Apache-2.0"  # in two parts, or reuse would read it as this file's


def package_of(file: Path) -> str:
    """First folder of a module below src, or its own name."""
    parts = file.relative_to(SRC).with_suffix("").parts
    return parts[0]


def imported_packages(file: Path) -> Iterator[tuple[str, int]]:
    """Packages of ours that a file imports, with the line."""
    here = file.relative_to(SRC).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            target = (*base, *(node.module or "").split(".")) if node.module else base
            names = [target[0]] if target else [alias.name for alias in node.names]
            yield from ((name, node.lineno) for name in names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "isdfine":
            yield (node.module or "").split(".")[1] if "." in (node.module or "") else "__init__", node.lineno
        elif isinstance(node, ast.Import):
            yield from (("__init__", node.lineno) for alias in node.names if alias.name.split(".")[0] == "isdfine")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SRC)))
def test_imports_follow_the_page(file: Path) -> None:
    package = package_of(file)
    if package in ("components", "__init__"):
        return
    allowed = MAY_IMPORT[package]
    assert not [f"{file}:{line} imports {name}" for name, line in imported_packages(file) if name not in allowed]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SRC)))
def test_files_and_functions_stay_short(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= MAX_FILE
    long = [
        f"{file}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION
    ]
    assert not long


def test_the_loop_knows_no_model() -> None:
    packages = {name for name, _ in imported_packages(SRC / "solver" / "train.py")}
    assert not packages & {"zoo", "losses", "distill"}


@pytest.mark.parametrize("folder", ["src", "tests", "tools", "configs"])
def test_every_file_names_its_licence(folder: str) -> None:
    files = [
        path for suffix in ("*.py", "*.yml") for path in (ROOT / folder).rglob(suffix) if "golden" not in path.parts
    ]
    assert files
    without = [str(file) for file in files if LICENCE_LINE not in file.read_text()[:400]]
    assert not without


@pytest.mark.parametrize("folder", ["src", "tools"])
def test_no_unsafe_loading_and_no_path_edits(folder: str) -> None:
    wrong = []
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
                if (call == "torch.load" and not safe) or call in FORBIDDEN_CALLS:
                    wrong.append(f"{file}:{node.lineno} {call}")
    assert not wrong


def test_every_public_class_name_stands_once() -> None:
    places: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(file.relative_to(SRC)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
