# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Prepares the process that workers are forked from. It imports this module when it starts, and nothing else does."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from multiprocessing import util
from types import TracebackType

from . import loader  # noqa: F401  what workers need: they are forked with it
from .workers import LoaderProcess

_END_SECONDS = 5.0
"""The kernel closes what a killed process had open one by one, and the sentinel may come late."""


def _take_signals(_: object) -> None:
    """Processes that other code starts from the same server take signals as ever; workers see to that themselves."""
    if not isinstance(multiprocessing.current_process(), LoaderProcess):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def _say(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """No traceback from a process whose main process ended in the middle of telling it something."""
    if issubclass(kind, (EOFError, ConnectionError)):
        main = multiprocessing.parent_process()  # not known yet where it had not said what to do
        if main is not None:
            main.join(_END_SECONDS)
        if main is None or not main.is_alive():
            return
    sys.__excepthook__(kind, error, traceback)


util.register_after_fork(_take_signals, _take_signals)
sys.excepthook = _say
