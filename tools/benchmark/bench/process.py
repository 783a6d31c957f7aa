# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Sides that are measured in a process of their own: it takes a turn for every line that it reads, and says seconds.

It imports nothing of this project, so that checkouts.py can run it beside any checkout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def side_process(command: Sequence[str], failure: Exception) -> Iterator[tuple[Any, Callable[[], float]]]:
    """What a process says at first, and a call that takes one turn and gives its seconds.

    Args:
        command: a program that calls ``serve``.
        failure: raised where it ends early, after its own message.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def answer() -> Any:
            if not (line := stdout.readline()):
                raise failure
            return json.loads(line)

        def turn() -> float:
            print(file=stdin, flush=True)
            return float(answer())

        try:
            yield answer(), turn
        finally:
            process.kill()


def serve(call: Callable[[], object], clock: Callable[[], float], first: object = None) -> None:
    """Say what comes first; then a call for every line of input, and a line with its seconds."""
    print(json.dumps(first), flush=True)
    for _ in sys.stdin:
        begin = clock()
        call()
        print(clock() - begin, flush=True)
