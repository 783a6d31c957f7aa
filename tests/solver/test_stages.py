# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The two stages of a run: what is decided, and what the loop does about it."""

from pathlib import Path
from typing import Any

import torch

import isdfine
from builders import write_micro_config
from isdfine.solver.fit import fit
from isdfine.solver.progress import BestSoFar, StagePlan, judge
from isdfine.solver.training import Training

PLAN = StagePlan(stop_epoch=4, restart_decay=0.999)


def test_stage_one_saves_improvements_and_never_resets() -> None:
    state = BestSoFar()
    seen = []
    for epoch, ap in enumerate((0.1, 0.3, 0.2, 0.3)):
        verdict = judge(state, ap, epoch, PLAN)
        state = verdict.state
        seen.append((verdict.is_best, verdict.reset))
    assert seen == [(True, False), (True, False), (False, False), (False, False)]
    assert (state.best, state.best_epoch, state.resets) == (0.3, 1, 0)


def test_stage_two_resets_unless_it_improves_or_follows_a_reset() -> None:
    state = BestSoFar(best=0.3, best_epoch=1, since_reset=0.3)
    seen = []
    for epoch, ap in enumerate((0.25, 0.2, 0.19, 0.22, 0.4, 0.41), start=4):
        verdict = judge(state, ap, epoch, PLAN)
        state = verdict.state
        seen.append((verdict.is_best, verdict.reset))
    # worse than stage one: reset; directly after it: accepted; worse again: reset; accepted; two new bests
    assert seen == [(False, True), (False, False), (False, True), (False, False), (True, False), (True, False)]
    assert (state.best, state.best_epoch, state.resets) == (0.41, 9, 2)


def test_without_a_second_stage_nothing_resets() -> None:
    verdict = judge(BestSoFar(best=0.5, since_reset=0.5), 0.1, 7, StagePlan())
    assert not verdict.reset
    assert not StagePlan().begins(0)


def test_a_stop_epoch_of_zero_has_no_stage_one_to_return_to() -> None:
    plan = StagePlan(stop_epoch=0)
    assert plan.in_stage_two(0)
    assert not plan.begins(0)
    assert not judge(BestSoFar(best=0.5, since_reset=0.5), 0.1, 3, plan).reset


def test_a_stage_two_that_just_goes_on_keeps_sizes_and_loads_nothing() -> None:
    plan = StagePlan(stop_epoch=2, restart=False)
    assert [plan.in_stage_two(epoch) for epoch in (1, 2, 3)] == [False, True, True]
    assert not plan.begins(2)
    assert not judge(BestSoFar(best=0.5, since_reset=0.5), 0.1, 3, plan).reset


def test_batches_keep_their_size_in_stage_two_also_after_a_resume(tmp_path: Path) -> None:
    collate = "train_dataloader.collate_fn"
    stages = [f"{collate}={{type: BatchImageCollateFunction, base_size: [64, 96], scales: [128], stop_epoch: 1}}"]
    config, sizes = write_micro_config(tmp_path), []
    for epochs, resume in ((1, []), (2, [f"resume={tmp_path / 'run'}"])):
        run = Training(isdfine.load_config(config, [*stages, *resume, f"epoches={epochs}", f"{collate}.restart=False"]))
        if resume:
            run.resume(tmp_path / "run")
        forward = run.trained.forward

        def seen(images: torch.Tensor, *rest: Any, forward: Any = forward, **more: Any) -> Any:
            sizes.append(tuple(images.shape[-2:]))
            return forward(images, *rest, **more)

        run.trained.forward = seen  # type: ignore[method-assign]
        fit(run)
    assert sizes == [(128, 128)] * 2 + [(64, 96)] * 2


def test_an_undefined_ap_is_never_the_best() -> None:
    verdict = judge(BestSoFar(), float("nan"), 0, PLAN)
    assert not verdict.is_best
    assert verdict.state.best is None
