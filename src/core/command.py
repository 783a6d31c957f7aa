# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the command lines of this project share: options, and mistakes of the user that end in one message."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError, DataError, NonFiniteError
from .files import whole_file

MISUSE, INTERRUPTED = 2, 130
"""Exit codes: a mistake of the user; Ctrl-C, as shells have it (128 + SIGINT)."""
Main = Callable[..., int]
OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "config": (("-c", "--config"), {"help": "YAML file of the run"}),
    "update": (("-u", "--update"), {"nargs": "+", "action": "extend", "default": [], "metavar": "KEY.PATH=VALUE",
                                    "help": "set any key of the config"}),
    "device": (("-d", "--device"), {"help": "cpu, cuda or cuda:0 (default: a GPU where there is one)"}),
    "output": (("-o", "--output"), {"type": Path}),
    "max_pixels": (("--max-pixels",), {"type": int,
                                       "help": "largest image that is decoded (default: Pillow's limit)"}),
    "ema": (("--ema",), {"action": argparse.BooleanOptionalAction, "help": "averaged or plain weights of a .pth"}),
    "overwrite": (("--overwrite",), {"action": "store_true", "help": "write into a folder that is not empty"}),
}  # fmt: skip
"""Options that several commands have, with what stands in all of them."""


def command_parser(text: str | None, **settings: Any) -> argparse.ArgumentParser:
    """A parser whose help shows the docstring of a command as it is written."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=text, formatter_class=form, **settings)


def add_option(parser: Any, name: str, *flags: str, **settings: Any) -> None:
    """Add one of ``OPTIONS``; ``flags`` and ``settings`` replace the usual ones."""
    usual, common = OPTIONS[name]
    parser.add_argument(*(flags or usual), **{**common, **settings})


def one_line_errors(main: Main) -> Main:
    """A command in which a mistake of the user, or a file that cannot be read or written, is one message and a 2."""

    @functools.wraps(main)
    def run(*arguments: Any, **named: Any) -> int:
        try:
            return main(*arguments, **named)
        except (ConfigError, DataError, CheckpointError, NonFiniteError, OSError) as error:
            sys.stderr.write(f"error: {error}\n")
            return MISUSE

    return run


def check_least(options: argparse.Namespace, **least: int) -> None:
    """See that numbers among the options are large enough, where they are given (ConfigError)."""
    for name, low in least.items():
        if (value := getattr(options, name, None)) is not None and value < low:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: give {low} or more")


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """See that a folder may be written to: absent, empty, or meant to be written over (ConfigError)."""
    if folder.is_file():
        raise ConfigError(f"{folder}: is a file: choose a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ConfigError(f"{folder}: is not empty: choose another folder, or write into it with --overwrite")


def write_json(path: Path, content: Any) -> None:
    """Write plain data, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
