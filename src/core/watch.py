# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which rank keeps the others waiting: every rank gives signs of life, and looks for those of the others.

A rank that waits in a collective cannot know why: another may be dead, stopped, stuck, or busy with work that takes its
time. So a thread of every rank writes into the group's store where its main thread stands, and reads what the others
wrote; a second one judges, since a store whose process is stopped never answers, whatever its timeout. A rank without
signs of life, or one that keeps the others waiting and does nothing, is named and ends the run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

PATIENCE = 10
"""Work that is known to take long (start, evaluation, saving, compiling) may take so many times the limit."""
EXIT_CODE = 3
_IDLE = 0.03
"""Share of a core below which a main thread does nothing."""
_COLLECTIVES = ("torch/distributed/", "torch/nn/parallel/distributed.py", "torch/autograd/graph.py")
"""Where the main thread stands while it waits for other ranks; gradients are exchanged inside autograd."""
_COMPILERS = ("torch/_dynamo/", "torch/_inductor/")


@dataclass
class Sign:
    """What a rank says of itself."""

    who: str
    number: int = 0
    """Counts its signs."""
    still_s: float = 0.0
    """Seconds since it finished a step or a collective."""
    state: str = "busy"
    """``waits`` for others, ``busy``, or ``stuck``: it does nothing and waits for nobody."""
    where: str = ""
    """File, line and function where the main thread stands."""
    end: str | None = None
    """Why it has left the run; empty = its part was done."""
    because: bool = False
    """It left because of another rank."""


@dataclass
class _Seen:
    sign: Sign
    at: float = field(default_factory=time.monotonic)
    """When it came, by our clock: those of other machines may go wrong."""


class Watch:
    """Signs of one rank, and what it sees of the others, once :meth:`start` is called.

    Args:
        store: of the group, as a connection of its own: one that waits blocks all who share it.
        rank, world_size: of this process.
        limit_s: how long a rank may keep the others waiting without doing anything; half of it without a sign.
        give_up: called with the message when another rank is at fault; by default the process ends, for its main thread
            waits in a collective and cannot be interrupted.
        holder: whose process holds the store.
    """

    def __init__(
        self, store: Any, rank: int, world_size: int, limit_s: float, give_up: Callable[[str], None] | None = None,
        holder: str = "rank 0",
    ) -> None:  # fmt: skip
        self._store, self._rank, self._limit_s, self._holder = store, rank, limit_s, holder
        self._give_up = give_up or self._exit
        self._own = Sign(f"pid {os.getpid()} on {socket.gethostname()}")
        self._main = threading.main_thread().ident
        self._works: list[str] = ["starting"]
        self._moved = self._asked = self._warned = time.monotonic()
        self._cpu_s, self._load = 0.0, 1.0
        self._interval_s = min(1.0, limit_s / 10)
        self._over = threading.Event()
        self._lost = False  # the store is gone
        self._own.state, self._own.where = self._stand()
        self._show()
        self._seen = {other: _Seen(Sign("")) for other in range(world_size) if other != rank}

    def start(self) -> None:
        """Begin to watch; every rank has made its watch by then."""
        self._forgive()
        for work in (self._exchange, self._judge):
            threading.Thread(target=work, name="isdfine-watch", daemon=True).start()

    def moved(self, *, started: bool = False) -> None:
        """The main thread has finished a collective, or (``started``) a step."""
        self._moved = time.monotonic()
        if started and self._works[:1] == ["starting"]:
            del self._works[0]

    @contextlib.contextmanager
    def busy(self, work: str) -> Iterator[None]:
        """What the block does may keep the others waiting for ``PATIENCE`` times the limit."""
        self._works.append(work)
        try:
            yield
        finally:
            self._works.remove(work)
            self._moved = time.monotonic()

    def leave(self, reason: str = "", *, because: bool = False) -> None:
        """Tell the others that this rank leaves the run, and why."""
        if self._own.end is None:
            self._over.set()
            self._own.end, self._own.because = reason, because
            last_sign = threading.Thread(target=self._show, daemon=True)
            last_sign.start()
            last_sign.join(2.0)  # a store that is stopped never answers

    def culprit(self) -> str | None:
        """Which rank is gone, asked when a collective has failed; None where all are here."""
        until = time.monotonic() + max(self._limit_s / 2, 10 * self._interval_s)
        while time.monotonic() < until:
            time.sleep(self._interval_s / 2)
            if self._lost:
                return f"{self._holder} (its process held the store of the group) is gone: it was killed or has crashed"
            ended = [(rank, seen.sign) for rank, seen in self._seen.items() if seen.sign.end]
            for rank, sign in sorted(ended, key=lambda pair: pair[1].because):
                if not sign.because or all(seen.sign.end is not None for seen in self._seen.values()):
                    return f"rank {rank} ({sign.who}) ended with: {sign.end}"
            for rank, seen in self._seen.items():
                if seen.sign.end is None and time.monotonic() - seen.at > 6 * self._interval_s:
                    return f"rank {rank} ({seen.sign.who}) is gone: it was killed or has crashed"
        return None

    def _exchange(self) -> None:
        """Give signs and read those of the others; blocks for as long as the store's process is stopped."""
        while not self._over.wait(self._interval_s) and not self._lost:
            self._show()
            with self._losing():
                self._look()
                self._answered = time.monotonic()

    def _judge(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self._interval_s):
            if time.monotonic() - before > self._limit_s / 4:  # this process was stopped, and with it perhaps all
                self._forgive()
            before = time.monotonic()
            self._own.state, self._own.where = self._stand()
            if fault := self._fault():
                self._over.set()
                self._give_up(fault)

    def _forgive(self) -> None:
        """Count every wait from now."""
        self._answered = self._moved = now = time.monotonic()
        for seen in self._seen.values():
            seen.at = now

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:  # the store is gone: with rank 0, or with torchrun
            self._lost = True

    def _show(self) -> None:
        self._own.number, self._own.still_s = self._own.number + 1, time.monotonic() - self._moved
        with self._losing():
            self._store.set(f"sign/{self._rank}", json.dumps(vars(self._own)))

    def _look(self) -> None:
        keys = [f"sign/{rank}" for rank in self._seen]
        for seen, text in zip(self._seen.values(), self._store.multi_get(keys)):
            sign = Sign(**json.loads(text))
            if sign.number != seen.sign.number:
                seen.sign, seen.at = sign, time.monotonic()

    def _stand(self) -> tuple[str, str]:
        """State and place of the main thread."""
        frame, compiles = sys._current_frames().get(self._main or 0), False
        place = "" if frame is None else frame.f_code.co_filename.replace(os.sep, "/")
        where = ""
        while frame is not None:
            file = frame.f_code.co_filename.replace(os.sep, "/")
            compiles = compiles or any(part in file for part in _COMPILERS)
            if not where and "/torch/" not in file:  # the first line that is not torch's says more
                where = f"{'/'.join(file.split('/')[-2:])}:{frame.f_lineno} in {frame.f_code.co_name}"
            frame = frame.f_back
        works = f"{self._works[-1]}, " if self._works else ""
        if self._idle() and any(part in place for part in _COLLECTIVES):
            return "waits", works + where
        return ("busy" if self._works or compiles or not self._idle() else "stuck"), works + where

    def _idle(self) -> bool:
        """Whether the main thread does nothing, over the last seconds."""
        now = time.monotonic()
        if now - self._asked >= self._interval_s / 2 and self._main is not None:
            used_s = time.clock_gettime(time.pthread_getcpuclockid(self._main))
            self._load = (used_s - self._cpu_s) / (now - self._asked)
            self._cpu_s, self._asked = used_s, now
        return self._load < _IDLE

    def _fault(self) -> str | None:
        """Which rank ends the run, and why; one that is busy is warned of."""
        now, own = time.monotonic(), self._own
        own_s, silent_s = now - self._moved, now - self._answered
        if silent_s > self._limit_s / 2:  # so nothing is known of the others
            if own.state == "waits" and own_s > self._limit_s / 2:
                held = f"{self._holder} (its process {'held' if self._lost else 'holds'} the store of the group)"
                return (
                    f"{held} is gone" if self._lost else f"{held} has not answered for {silent_s:.0f} s: it is stopped"
                )
            return None
        for rank, seen in self._seen.items():
            if seen.sign.end is None and now - seen.at > self._limit_s / 2:
                return (
                    f"rank {rank} ({seen.sign.who}) has given no sign of life for {now - seen.at:.0f} s: it is stopped "
                    f"or killed, or its machine is gone; it last stood in {seen.sign.where}"
                )
        if own_s < self._limit_s or own.state == "stuck":
            return None
        for rank, seen in self._seen.items():
            sign = seen.sign
            if sign.end is not None and own.state == "waits":
                return f"rank {rank} ({sign.who}) has left the run ({sign.end or 'done'}), and this one waits for it"
            if sign.state != "waits" and sign.still_s > self._limit_s:
                text = f"rank {rank} ({sign.who}) has kept others waiting for {sign.still_s:.0f} s, in {sign.where}"
                if sign.state == "stuck" or sign.still_s > PATIENCE * self._limit_s:
                    return text
                if own.state == "waits" and now - self._warned > self._limit_s:
                    self._warned = now
                    logger.warning("%s; it is busy, so it is waited for", text)
        if own_s > PATIENCE * self._limit_s:
            places = "; ".join(f"rank {rank} in {seen.sign.where}" for rank, seen in self._seen.items())
            return f"no rank has finished a step for {own_s:.0f} s: this one stands in {own.where}; {places}"
        return None

    def _exit(self, message: str) -> None:
        self.leave(message, because=True)
        end_process(f"rank {self._rank} ends, because {message}")


def end_process(message: str) -> None:
    """End at once, whatever the main thread waits for, with a line in the log."""
    logger.error("%s", message)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(EXIT_CODE)
