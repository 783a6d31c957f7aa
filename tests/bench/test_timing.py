# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from isdfine.bench.timing import Timing, TimingPlan, measure, ratio, table
from isdfine.core.errors import ConfigError


class StepClock:
    """Time that passes only when a call says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float, log: list[str], name: str) -> object:
        def call() -> None:
            log.append(name)
            self.now += seconds

        return call


def test_turns_have_orders_drawn_anew_and_warm_up_does_not_count() -> None:
    clock, log = StepClock(), []
    calls = {name: clock.takes(seconds, log, name) for name, seconds in (("a", 0.25), ("b", 0.5))}
    finished: list[int] = []
    timed = measure(calls, TimingPlan(rounds=20, repeats=2, warmup=3), clock=clock, on_round=finished.append)
    assert log[:6] == ["a"] * 3 + ["b"] * 3
    turns = ["".join(log[place : place + 6]) for place in range(6, len(log), 6)]
    assert set(turns) == {"aaabbb", "bbbaaa"}, "in both orders, one call before the two that count"
    assert finished == list(range(1, 21))
    assert timed["a"].rounds == ((0.25, 0.25),) * 20
    assert ratio(timed["b"], timed["a"]).median == 2


def test_statistics_of_known_times() -> None:
    timing = Timing(tuple((number / 1000,) for number in range(101, 0, -1)))
    timed = timing.summary(batch=2)
    assert timed["median_ms"] == pytest.approx(51)
    assert timed["p90_ms"] == pytest.approx(91)
    assert timed["p99_ms"] == pytest.approx(100)
    assert timed["spread_percent"] == pytest.approx(100 * 50 / 51)
    assert (timed["fastest_ms"], timed["slowest_ms"]) == (pytest.approx(1), pytest.approx(101))
    assert timed["images_per_second"] == pytest.approx(2 / 0.051)
    assert timed["calls"] == 101


def test_a_ratio_compares_rounds_not_runs() -> None:
    """Rounds three times as slow for both, as when other work comes, do not move it."""
    slow = (1, 3, 1, 3, 3)
    mine = Timing(tuple((2.0 * factor,) for factor in slow))
    other = Timing(tuple((1.0 * factor, 1.0 * factor, 9.0 * factor) for factor in slow))
    timed = ratio(mine, other)
    assert (timed.quartile1, timed.median, timed.quartile3) == (2, 2, 2)
    assert ratio(Timing(((3.0,),)), Timing(((2.0,),))).median == 1.5


@pytest.mark.parametrize("name", ["rounds", "repeats", "warmup"])
def test_a_plan_without_calls_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0: give 1 or more"):
        TimingPlan(**{name: 0})


def test_tables() -> None:
    rows = [["model", "ms"], ["a", "10.5"]]
    assert table(rows) == "model    ms\na      10.5"
    assert table(rows, markdown=True) == "| model |   ms |\n| ----- | ---: |\n| a     | 10.5 |"
