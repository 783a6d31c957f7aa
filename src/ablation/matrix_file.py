# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Read an ablation file into a matrix; every mistake in it is named with its line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.config.node import Node, read_yaml
from ..core.config.plan import suggest
from ..core.errors import ConfigError
from .matrix import Change, Judge, Matrix

_METRIC = re.compile(r"AP|AP50|AP75|AP[sml]|AR[sml]|AR\d+")
"""Names that an evaluation reports."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
"""Names that become folders."""
_KEYS = ("name", "output_dir", "base", "seeds", "baseline", "metrics", "judge", "data", "variants")
_OWN_KEYS = {
    "seed": "list it under seeds",
    "output_dir": "every run has a folder of its own in the ablation's output_dir",
    "resume": "a run goes on from its own last checkpoint",
}
"""What the ablation sets in every run, and so no override can."""
_CHANGE_KEYS = ("set", "include")


def read_matrix(path: str | Path, overrides: tuple[str, ...] = (), output_dir: str | None = None) -> Matrix:
    """Read an ablation file.

    Args:
        path: the YAML file; ``base`` and ``include`` in it are relative to it, ``output_dir`` to the working folder.
        overrides: further overrides of every run.
        output_dir: instead of the file's.

    Raises:
        ConfigError: it cannot be read, or all that is wrong in it, one per line.
    """
    path = Path(path)
    root = read_yaml(path)
    reader = _Reader(path)
    matrix = reader.matrix(root)
    if reader.problems or matrix is None:
        raise ConfigError("\n".join(reader.problems))
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _OWN_KEYS:
            raise ConfigError(f"-u {override}: {key} is set by the ablation: {_OWN_KEYS[key]}")
    given = Path(output_dir) if output_dir else matrix.output_dir
    return replace(matrix, overrides=tuple(overrides), output_dir=given)


class _Reader:
    """Turns the tree of an ablation file into a matrix; mistakes gather in ``problems``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def report(self, node: Node, text: str) -> None:
        self.problems.append(f"{node.origin}: {node.key}: {text}" if node.key else f"{node.origin}: {text}")

    def matrix(self, root: Node) -> Matrix | None:
        """The matrix, or None where the file is no mapping."""
        if not isinstance(root.value, dict):
            self.report(root, f"an ablation file holds `key: value` lines with {', '.join(_KEYS)}")
            return None
        self.known(root, _KEYS)
        for key in ("base", "seeds", "variants"):
            if key not in root.value:
                self.report(root, f"{key}: missing: an ablation needs it")
        variants = self.changes(root, "variants", data=False)
        data = self.changes(root, "data", data=True) or (Change(""),)
        baseline = self.text(root, "baseline", variants[0].name if variants else "")
        names = [variant.name for variant in variants]
        if variants and baseline not in names:
            self.report(root.value["baseline"], f"no variant is called {baseline!r}{suggest(baseline, names)}")
        name = self.text(root, "name", self.path.stem)
        return Matrix(
            path=self.path,
            name=name,
            output_dir=Path(self.text(root, "output_dir", f"./output/ablations/{name}")),
            base=self.file(root.value["base"]) if "base" in root.value else self.path,
            seeds=self.seeds(root),
            baseline=baseline,
            metrics=self.metrics(root),
            judge=self.judge(root),
            data=data,
            variants=variants,
        )

    def known(self, node: Node, keys: tuple[str, ...]) -> None:
        for name, child in node.value.items():
            if name not in keys:
                self.report(child, f"no such key{suggest(name, keys)}")

    def text(self, root: Node, key: str, default: str) -> str:
        node = root.value.get(key)
        if node is None:
            return default
        if not isinstance(node.value, str) or not node.value:
            self.report(node, f"expected a text, found {node.plain()!r}")
            return default
        return node.value

    def file(self, node: Node) -> Path:
        """A YAML file named relative to the ablation file."""
        if not isinstance(node.value, str):
            self.report(node, f"expected the name of a YAML file, found {node.plain()!r}")
            return self.path
        file = self.path.parent / Path(node.value).expanduser()
        if not file.is_file():
            self.report(node, f"{file}: no such file; paths are relative to {self.path.parent}")
        return file

    def seeds(self, root: Node) -> tuple[int, ...]:
        node = root.value.get("seeds")
        seeds = node.plain() if node else [0]
        sound = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
        if node and (not sound or len(set(seeds)) < len(seeds)):
            self.report(node, f"expected a list of different whole numbers of 0 or more, found {seeds!r}")
            return (0,)
        return tuple(seeds)

    def metrics(self, root: Node) -> tuple[str, ...]:
        node = root.value.get("metrics")
        metrics = node.plain() if node else ["AP", "AP50"]
        sound = isinstance(metrics, list) and metrics and all(_METRIC.fullmatch(str(metric)) for metric in metrics)
        if node and not sound:
            self.report(
                node, f"expected a list of AP, AP50, AP75, APs, APm, APl, AR100, ARs and so on, found {metrics!r}"
            )
            return ("AP",)
        return tuple(metrics)

    def judge(self, root: Node) -> Judge:
        node = root.value.get("judge")
        if node is None or node.value == "last":
            return "last"
        if node.value != "best":
            self.report(node, f"expected last or best, found {node.plain()!r}")
        return "best"

    def changes(self, root: Node, key: str, *, data: bool) -> tuple[Change, ...]:
        node = root.value.get(key)
        if node is None:
            return ()
        if not isinstance(node.value, dict) or not node.value:
            self.report(node, f"expected names, each with what it changes ({{}} for nothing), found {node.plain()!r}")
            return ()
        return tuple(self.change(str(name), child, data=data) for name, child in node.value.items())

    def change(self, name: str, node: Node, *, data: bool) -> Change:
        """One entry of ``variants`` or ``data``: null, a list of overrides, or a mapping with set and include."""
        if not _NAME.fullmatch(name) or name == "composed":
            self.report(node, f"{name!r} names a folder: use letters, digits, _ . + and -, and not `composed`")
        if node.value is None:
            return Change(name)
        if isinstance(node.value, list):
            return Change(name, overrides=tuple(self.overrides(node)))
        keys = (*_CHANGE_KEYS, "base") if data else _CHANGE_KEYS
        if not isinstance(node.value, dict):
            self.report(node, f"expected a mapping with {' and '.join(keys)}, found {node.plain()!r}")
            return Change(name)
        self.known(node, keys)
        value = node.value
        include = value.get("include")
        files = [] if include is None else include.value if isinstance(include.value, list) else [include]
        return Change(
            name,
            include=tuple(self.file(file) for file in files),
            overrides=tuple(self.overrides(value["set"])) if "set" in value else (),
            base=self.file(value["base"]) if data and "base" in value else None,
        )

    def overrides(self, node: Node) -> Iterator[str]:
        """``key.path=value`` texts, from a list of them or from a mapping of dotted keys."""
        for place, text in self.written(node):
            key = text.partition("=")[0].strip()
            if key in _OWN_KEYS:
                self.report(place, f"{key} is set by the ablation: {_OWN_KEYS[key]}")
            yield text

    def written(self, node: Node) -> Iterator[tuple[Node, str]]:
        """Each override with its place."""
        if isinstance(node.value, dict):
            yield from ((child, f"{key}={json.dumps(child.plain())}") for key, child in node.value.items())
            return
        entries: list[Any] = node.value if isinstance(node.value, list) else [node]
        for entry in entries:
            if not isinstance(entry.value, str) or "=" not in entry.value:
                self.report(entry, f"expected key.path=value, for example optimizer.lr=1e-4, found {entry.plain()!r}")
            else:
                yield entry, entry.value
