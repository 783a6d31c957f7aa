# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmark commands share: options, configs of published sizes, and how results are shown and kept."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import isdfine

from ..core.command import add_option, command_parser, write_json
from ..core.config import Config
from ..core.config.shipped import SHIPPED
from ..core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the checkout, where this is one."""
MB = 1 << 20
_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "--image": ("in pixels (%(default)s)", {"nargs": 2, "type": int, "metavar": ("HEIGHT", "WIDTH")}),
    "--batch": ("images per step (%(default)s)", {"type": int}),
    "--boxes": ("ground-truth boxes per image; BCCD has 12, COCO 7 (%(default)s)", {"type": int}),
    "--rounds": ("turns of each side that count (%(default)s)", {"type": int}),
    "--repeats": ("calls of a turn that count (%(default)s)", {"type": int}),
    "--warmup": ("calls of each side before the first round (%(default)s)", {"type": int}),
    "--seed": ("of what is made up (%(default)s)", {"type": int}),
    "--device": ("cpu, cuda or cuda:0 (default: a GPU where there is one)", {}),
    "--threads": ("of a CPU (%(default)s)", {"type": int}),
}


def bench_parser(
    text: str | None, *, model: bool = False, output: bool = True, **defaults: Any
) -> argparse.ArgumentParser:
    """A parser with the shared options.

    Args:
        text: docstring of the command.
        model: also ``--size`` or ``--config``, and ``--update``.
        output: also ``--output``.
        defaults: of the options that the command has.
    """
    parser = command_parser(text)
    if model:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--size", choices=("n", "s", "m", "l", "x"), help="D-FINE of this size, 80 classes")
        add_option(which, "config", help="YAML file with model, criterion and optimizer")
        add_option(parser, "update")
    for name, default in defaults.items():
        text, settings = _OPTIONS[f"--{name}"]
        parser.add_argument(f"--{name}", default=default, help=text, **settings)
    if output:
        add_option(parser, "output", help="JSON file: machine, versions, every call")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    return parser


def config_path(options: argparse.Namespace, root: Path | None = None) -> Path:
    """The file of ``--config``, or that for ``--size``: the package's, or the one of a checkout."""
    configs = SHIPPED if root is None else root / "configs"
    return Path(options.config or configs / f"dfine/dfine_hgnetv2_{options.size}_coco.yml")


def config_of(options: argparse.Namespace, *more: str) -> Config:
    """The config of ``--size`` or ``--config`` for the image size asked for; ``more`` overrides come last.

    Classes are COCO's 80 where nothing says how many.
    """
    config = isdfine.load_config(config_path(options), [*options.update, *more])
    return config.with_values(
        {"num_classes": config.get("num_classes") or 80, "eval_spatial_size": list(options.image)}
    )


def from_tests(file: str) -> Any:
    """A module under ``tests``: the published way, written anew.

    Raises:
        ConfigError: this is no checkout with tests.
    """
    path = ROOT / "tests" / file
    if not path.is_file():
        raise ConfigError(f"{path} is missing: run this from a checkout, the published way lies among the tests")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def publish(results: Mapping[str, Any], options: argparse.Namespace, *tables: str, note: str) -> None:
    """Write results as JSON where that is asked for, and print tables and what they were measured on.

    Args:
        results: with ``machine``.
        note: what was measured, in words.
    """
    if options.output is not None:
        write_json(options.output, results)
    machine = results["machine"]
    print("\n\n".join(tables))
    print(f"\n{note}; {machine['cpu']}, threads {machine['threads']}, device {machine['device']}, load "
          f"{machine['load']} before, {machine['load_after']} after; torch {torch.__version__}")  # fmt: skip
