# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Logging set-up: one line per record on stderr, warnings only from ranks other than 0."""

from __future__ import annotations

import logging
import sys

PACKAGE = __name__.split(".")[0]
_NAME = "isdfine-stderr"


class RankFilter(logging.Filter):
    """Let everything pass on rank 0 and warnings or worse elsewhere."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def filter(self, record: logging.LogRecord) -> bool:
        return self.rank == 0 or record.levelno >= logging.WARNING


def setup_logging(rank: int = 0, level: int = logging.INFO) -> None:
    """Send the package's log lines to stderr. Calling again replaces rank and level and adds nothing.

    Args:
        rank: number of this process; shown in front of the lines of ranks other than 0.
        level: lowest level that is shown on rank 0, for example ``logging.DEBUG``.
    """
    logger = logging.getLogger(PACKAGE)
    for handler in [one for one in logger.handlers if one.name == _NAME]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(_NAME)
    handler.addFilter(RankFilter(rank))
    who = f" rank {rank}" if rank else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s{who} %(name)s: %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(level)
