# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Signs of life of the ranks: the one that keeps the others waiting is named, and no other."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch.distributed as torch_dist

from isdfine.core import dist
from isdfine.core.errors import ConfigError, RankError
from isdfine.core.watch import Sign, Watch

LIMIT_S = 0.4


class Pair:
    """Rank 0 as it is, and a rank 1 that says what the test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, own_state: str = "waits") -> None:
        self.store, self.said, self.number = torch_dist.HashStore(), [], 0
        self.say()
        monkeypatch.setattr(Watch, "_stand", lambda _: (own_state, "callbacks.py:1 in line"))
        self.watch = Watch(self.store, 0, 2, LIMIT_S, self.said.append)
        self.watch.start()
        self.watch.moved(started=True)

    def say(self, **sign: Any) -> None:
        self.number += 1
        text = {"who": "pid 7 on elsewhere", "number": self.number, "where": "loader.py:9 in read", **sign}
        self.store.set("sign/1", json.dumps(vars(Sign(**text))))

    def until(self, seconds: float, **sign: Any) -> list[str]:
        """What was said when rank 1 has given this sign for a while, or as soon as something is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.said:
            self.say(**sign)
            time.sleep(0.02)
        return self.said


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(**options: Any) -> Pair:
        made.append(Pair(monkeypatch, **options))
        return made[-1]

    yield make
    for observer in made:
        observer.watch.leave()


def test_a_rank_without_signs_is_named(pair: Callable[..., Pair]) -> None:
    silent = pair()
    began = time.monotonic()
    while not silent.said and time.monotonic() - began < 10:
        time.sleep(0.02)
    assert silent.said[0].startswith("rank 1 (pid 7 on elsewhere) has given no sign of life for")
    assert silent.said[0].endswith("it last stood in loader.py:9 in read")


def test_a_rank_that_does_nothing_is_named(pair: Callable[..., Pair]) -> None:
    said = pair().until(10, state="stuck", still_s=61.0)
    assert said == ["rank 1 (pid 7 on elsewhere) has kept others waiting for 61 s, in loader.py:9 in read"]


def test_a_busy_rank_is_waited_for_with_a_warning(pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="isdfine"):
        assert pair().until(4 * LIMIT_S, state="busy", still_s=2.0, where="saving, checkpoint.py:3 in save") == []
    assert "kept others waiting for 2 s, in saving, checkpoint.py:3 in save; it is busy" in caplog.text


@pytest.mark.parametrize("state", ["stuck", "busy"])
def test_patience_ends(pair: Callable[..., Pair], state: str) -> None:
    assert "has kept others waiting" in pair().until(10, state=state, still_s=100 * LIMIT_S)[0]


def test_ranks_that_all_wait_are_left_alone_for_long(pair: Callable[..., Pair]) -> None:
    waiting = pair()
    assert waiting.until(3 * LIMIT_S, state="waits", still_s=3 * LIMIT_S) == []
    assert waiting.until(15, state="waits", still_s=3 * LIMIT_S)[0].startswith("no rank has finished a step for")


def test_a_rank_that_is_stuck_itself_accuses_nobody(pair: Callable[..., Pair]) -> None:
    assert pair(own_state="stuck").until(3 * LIMIT_S, state="stuck", still_s=61.0) == []


def test_a_rank_that_has_left_is_named_where_one_waits_for_it(pair: Callable[..., Pair]) -> None:
    assert pair().until(10, end="")[0].endswith("has left the run (done), and this one waits for it")
    assert pair(own_state="busy").until(3 * LIMIT_S, end="") == []


def test_an_error_of_another_rank_is_told(pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    failing = pair(own_state="busy")
    monkeypatch.setattr(dist, "_watch", failing.watch)
    failing.say(end="image 3.png cannot be read")
    with (
        pytest.raises(RankError, match=r"because rank 1 \(pid 7 on elsewhere\) ended with: image 3.png cannot be read"),
        dist.naming_ranks(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2")
    with pytest.raises(RuntimeError, match="shapes"), dist.naming_ranks():
        raise RuntimeError("shapes do not fit")  # its own fault


def test_a_rank_that_vanished_is_named_after_a_failed_collective(pair: Callable[..., Pair]) -> None:
    culprit = pair(own_state="busy").watch.culprit()
    assert culprit is not None
    assert culprit.startswith("rank 1 (pid 7 on elsewhere) is gone")


def test_a_store_that_never_answers_is_the_fault_of_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose process is stopped: with the whole limit as timeout it blocks for ever."""
    silent, said = threading.Event(), []

    class Store(torch_dist.HashStore):
        def multi_get(self, keys: list[str]) -> list[bytes]:
            silent.wait()
            return [json.dumps(vars(Sign(""))).encode()]

    monkeypatch.setattr(Watch, "_stand", lambda _: ("waits", ""))
    watch = Watch(Store(), 1, 2, LIMIT_S, said.append)
    watch.start()
    began = time.monotonic()
    while not said and time.monotonic() - began < 10:
        time.sleep(0.02)
    assert said == ["rank 0 (its process holds the store of the group) has not answered for 0 s: it is stopped"]
    watch.leave("the end", because=True)
    silent.set()


def test_who_was_stopped_itself_accuses_nobody(pair: Callable[..., Pair]) -> None:
    """As all ranks are by Ctrl-Z, or by a cluster that suspends a job."""
    resumed = pair()
    wait = resumed.watch._over.wait
    resumed.watch._over.wait = lambda seconds: time.sleep(2 * LIMIT_S) or wait(0)  # type: ignore[method-assign]
    time.sleep(3 * LIMIT_S)
    assert resumed.said == []


def test_where_the_main_thread_stands() -> None:
    store = torch_dist.HashStore()
    watch = Watch(store, 0, 1, 100.0)
    try:
        assert watch._stand()[0] == "busy"  # starting
        watch.moved(started=True)
        watch._asked -= 1e6  # idle for so long, whatever this process did before
        state, where = watch._stand()
        assert state == "stuck"
        assert where.startswith("core/watch.py")
        with watch.busy("saving"):
            assert watch._stand()[0] == "busy"
            assert watch._stand()[1].startswith("saving, ")
        assert watch._stand()[0] == "stuck"
    finally:
        watch.leave()


def test_ranks_must_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"optimizer.lr": 0.1, "epoches": 3}
    monkeypatch.setattr(dist, "gather_objects", lambda own: [own, own])
    dist.require_same(facts, "configuration")
    other = {"optimizer.lr": "0.2", "epoches": "3", "seed": "1"}
    monkeypatch.setattr(dist, "gather_objects", lambda own: [own, own, other])
    with pytest.raises(
        ConfigError,
        match=r"rank 2 has another configuration than rank 0: optimizer.lr is 0.2 there and 0.1 on rank 0; seed is 1 "
        "there and None on rank 0: start all ranks by one command",
    ):
        dist.require_same(facts, "configuration")
