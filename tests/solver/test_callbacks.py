# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import os
import signal

import pytest
import torch

from isdfine.core.errors import NonFiniteError
from isdfine.solver.callbacks import NonFiniteGuard, StopSignal
from isdfine.solver.train import StepReport, sum_terms


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


def test_no_loss_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"returned no loss.*criterion\.losses"):
        sum_terms({})
    assert float(sum_terms({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})) == 3.0
