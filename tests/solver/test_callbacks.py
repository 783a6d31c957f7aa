# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import os
import signal
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from isdfine.core.errors import NonFiniteError
from isdfine.solver.callbacks import EpochListener, NonFiniteGuard, StepLog, StopSignal
from isdfine.solver.progress import Progress, TimeLeft
from isdfine.solver.train import StepReport, sum_terms
from losses.test_criterion import Operators


def report(**terms: float) -> StepReport:
    return StepReport({name: torch.tensor(value) for name, value in terms.items()}, torch.tensor(1.0), 0.1)


def test_the_guard_names_the_first_bad_term_and_its_step() -> None:
    guard = NonFiniteGuard()
    guard.observe(report(loss_vfl=1.0, loss_bbox=2.0), 1)
    guard.check()
    guard.observe(report(loss_vfl=1.0, loss_bbox=float("nan")), 2)
    guard.observe(report(loss_vfl=float("inf"), loss_bbox=float("nan")), 3)
    with pytest.raises(NonFiniteError, match=r"step 2: loss_bbox is not finite.*precision: bf16 or fp32"):
        guard.check()


def test_the_guard_sees_the_gradient_norm_and_terms_that_appear_later() -> None:
    guard = NonFiniteGuard()
    guard.observe(report(loss_vfl=1.0), 1)
    guard.observe(StepReport({"loss_new": torch.tensor(1.0)}, torch.tensor(float("nan")), 0.1), 2)
    with pytest.raises(NonFiniteError, match="step 2: gradient norm is not finite"):
        guard.check()


def test_an_inactive_guard_lets_everything_pass() -> None:
    guard = NonFiniteGuard(active=False)
    guard.observe(report(loss_vfl=float("nan")), 1)
    guard.check()


def test_a_signal_is_noted_once_and_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.wanted(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wanted(2)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    with StopSignal(exits=True):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Ended, match="130"):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == "ended at once by SIGINT: continue with -r from what was saved before\n"
    with StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_comes_while_ranks_agree_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(asked: object) -> list[object]:
        os.kill(os.getpid(), signal.SIGTERM)
        return [asked, None]

    with StopSignal() as stop:
        monkeypatch.setattr("isdfine.core.dist.gather_objects", exchange)
        assert not stop.wanted_by_any()
        monkeypatch.setattr("isdfine.core.dist.gather_objects", lambda asked: [None, asked])
        assert stop.wanted_by_any()
        assert stop.reason(7).exit_code == 143


def test_no_loss_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"returned no loss.*criterion\.losses"):
        sum_terms({})
    assert float(sum_terms({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})) == 3.0


def test_off_a_log_step_nothing_runs_on_the_device_and_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = NonFiniteGuard()
    log = StepLog([], guard, every=100)
    listener = EpochListener(
        Progress(), 10, guard=guard, log=log, stop=StopSignal(),
        on_batch=lambda: None, save=lambda: None, save_every=None,
    )  # fmt: skip
    steps = [report(**{f"loss_{index}": 1.0 for index in range(60)}) for _ in range(3)]
    reads: list[str] = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, _name=name: reads.append(_name))
    for step in steps:
        with Operators() as seen:
            listener(step)
        assert set(seen.names) == {"detach"}  # no kernel; published: one read for each of 69 terms
    assert reads == []


def test_what_waits_for_a_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isdfine.solver.callbacks.HELD", 4)
    written: list[dict[str, float]] = []
    guard = NonFiniteGuard()
    log = StepLog([Keep(written)], guard, every=100)
    watched = []
    for step in range(1, 12):
        one = report(loss_a=float(step), loss_b=float("nan") if step == 7 else 1.0)
        watched.append(weakref.ref(one.scalars[0]))
        log.observe(one)
        guard.observe(one, step)
        del one
        assert sum(reference() is not None for reference in watched) <= 4
    with pytest.raises(NonFiniteError, match="step 7: loss_b is not finite"):
        guard.check()
    log._guard = NonFiniteGuard()
    log.line(report(loss_a=0.0), Progress(0, 1, 11), 1)
    assert written[0]["loss_a"] == 6.0


class Keep:
    """Writes into a list."""

    def __init__(self, written: list[dict[str, float]]) -> None:
        self.written = written

    def write(self, kind: str, step: int, values: Mapping[str, float], **place: Any) -> None:
        self.written.append(dict(values))

    def close(self) -> None: ...


def test_a_line_holds_the_means_of_all_steps(caplog: pytest.LogCaptureFixture) -> None:
    written: list[dict[str, float]] = []

    log = StepLog([Keep(written)], NonFiniteGuard(), every=2)
    for value in (1.0, 3.0):
        log.observe(report(loss_a=value, loss_b=10 * value))
    log.observe(report(loss_a=5.0))  # a step with fewer terms
    log.line(report(loss_a=5.0), Progress(0, 3, 3), 9)
    assert written[0]["loss_a"] == pytest.approx(3.0)
    assert written[0]["loss_b"] == pytest.approx(40 / 3)
    assert written[0]["loss"] == pytest.approx(3 + 40 / 3)


def test_the_time_left_follows_from_the_pace_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 130.0, 140.0])
    monkeypatch.setattr("isdfine.solver.progress.time.perf_counter", lambda: next(clock))
    left = TimeLeft(done=50, total=100)
    assert left.after(50) == ""  # nothing is known yet
    assert left.after(60) == ", 2 min left"  # 10 steps in 30 s, 40 to go
    assert left.after(100) == ""
