# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds a run: the device it computes on, the packages that are installed, and where its log goes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    import torch


def pick_device(wanted: str | None) -> torch.device:
    """A device by name; None = this rank's GPU where there is one, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    import torch  # the first line of a log comes before it

    name = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is {name!r}: give cpu, cuda or cuda:0, or leave it out") from None
    try:  # torch knows the names of devices that it does not have or cannot compute on
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        sees = f" and sees {torch.cuda.device_count()} CUDA devices" if device.type == "cuda" else ""
        raise ConfigError(
            f"device is {name}, but this torch ({torch.__version__}) cannot compute on it here{sees}: "
            "give cpu, or leave it out"
        ) from error
    return device


PACKAGE = __name__.split(".")[0]
_NAME = "isdfine-stderr"


class RankFilter(logging.Filter):
    """Let everything pass on rank 0 and warnings or worse elsewhere."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def filter(self, record: logging.LogRecord) -> bool:
        return self.rank == 0 or record.levelno >= logging.WARNING


def in_notebook() -> bool:
    """Whether what is printed goes to a notebook, which shows a progress line although it is no terminal."""
    return type(sys.stderr).__module__.startswith("ipykernel.")


def setup_logging(rank: int = 0, level: int = logging.INFO) -> None:
    """Send the package's log lines to stderr. Calling again replaces rank and level and adds nothing.

    In a notebook they go to stdout, which is not shown as an error.

    Args:
        rank: number of this process; shown in front of the lines of ranks other than 0.
        level: lowest level that is shown on rank 0, for example ``logging.DEBUG``.
    """
    logger = logging.getLogger(PACKAGE)
    for handler in [handler for handler in logger.handlers if handler.name == _NAME]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stdout if in_notebook() else sys.stderr)
    handler.set_name(_NAME)
    handler.addFilter(RankFilter(rank))
    who = f" rank {rank}" if rank else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s{who} %(name)s: %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(level)


@contextmanager
def logged(rank: int = 0) -> Iterator[None]:
    """Show the package's log lines during a call from Python.

    Who has given the logger ``isdfine`` a level or a handler decides alone. Handlers of the root logger get the lines
    where there are any; else they go to stderr. In a notebook the progress line shows the losses, not a line each.
    """
    logger, steps = logging.getLogger(PACKAGE), logging.getLogger(f"{PACKAGE}.solver.callbacks")
    handlers, level, level_of_steps = logger.handlers[:], logger.level, steps.level
    if not handlers and level == logging.NOTSET:
        if logging.getLogger().handlers:
            logger.setLevel(logging.WARNING if rank else logging.INFO)
        else:
            setup_logging(rank)
        if in_notebook():
            steps.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        steps.setLevel(level_of_steps)
