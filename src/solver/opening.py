# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a run says before its first step: what its backbone starts from, and which settings outlast the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from ..core import dist
from ..core.config.settings import FreezePlan
from ..optim.schedule import CosineAnnealingLR, FlatCosine

if TYPE_CHECKING:
    from .training import Training

logger = logging.getLogger(__name__)

LONG_WARMUP = 0.25
"""Share of a run's updates from which its warm-up is pointed out; the published recipes stay below 0.01."""
SLOW = 4
"""How many times slower than the rest a backbone learns in recipes that need trained weights (published: 10 to 100;
2 in those that also train from scratch)."""
_WAYS = (
    "start the model from a checkpoint (-t FILE), or give the backbone its ImageNet weights (pretrained, or weights)"
)


def introduce(run: Training) -> None:
    """Log what is trained on what, and warn of what the run is too short for or starts without."""
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    logger.info(
        "%.2f M parameters, %s, %s; %d training and %d validation images, classes %s; %d epochs of %d batches",
        parameters / 1e6, run.device, run.optim.precision.name, len(run.train_loader.dataset),
        len(run.val_loader.dataset), run.label_space.describe(), run.settings.epoches, len(run.train_loader),
    )  # fmt: skip
    if not dist.is_main():
        return
    if run.settings.resume is None and run.settings.tuning is None:
        _say_what_it_starts_from(run)
    for line in longer_than_the_run(run):
        logger.warning("%s", line)
    if (every := run.settings.checkpoint_freq) > run.settings.epoches:
        logger.info("checkpoint_freq is %d: the run keeps no checkpoints but the last and the best", every)


def _say_what_it_starts_from(run: Training) -> None:
    """Random weights that nobody asked for, or that the recipe is not made for, are a warning."""
    backbone = getattr(run.model, "backbone", None)
    if backbone is None:
        return
    name: str = type(backbone).__name__
    source: str | None = getattr(backbone, "starts_from", "weights it does not tell of")
    if source is None:
        logger.warning(
            "the backbone (%s) starts from random weights, because its section says nothing else: %s, or write "
            "pretrained: False if this is meant", name, _WAYS,
        )  # fmt: skip
        return
    reason = _fine_tuning(run, backbone) if source.startswith("random weights") else None
    if reason is None:
        logger.info("the backbone (%s) starts from %s", name, source)
    else:
        logger.warning("the backbone (%s) starts from %s, but %s: %s", name, source, *reason)


def _fine_tuning(run: Training, backbone: nn.Module) -> tuple[str, str] | None:
    """Why the recipe is one for trained weights, and what to do; None where it is not."""
    if run.settings.tuning_classes is not None:
        why = f"this is a recipe for fine-tuning (tuning_classes: {run.settings.tuning_classes})"
        return why, f"{_WAYS}; to train from scratch all the same, set -u tuning_classes=null"
    inside = {id(parameter) for parameter in backbone.parameters()}
    rates: dict[bool, dict[float, int]] = {True: {}, False: {}}
    for group, rate in zip(run.optim.optimizer.param_groups, run.optim.schedule.base):
        for parameter in group["params"]:
            counts = rates[id(parameter) in inside]
            counts[rate] = counts.get(rate, 0) + parameter.numel()
    if not rates[True] or not rates[False]:
        return None
    own, rest = (max(counts, key=lambda rate: counts[rate]) for counts in (rates[True], rates[False]))
    if own * SLOW > rest:
        return None
    return f"it learns at {own:g}, {rest / own:.3g} times slower than the rest" if own else "it does not learn", (
        f"{_WAYS}; to train from scratch, raise its rate in optimizer.params"
    )


def longer_than_the_run(run: Training) -> Iterator[str]:
    """One line for every setting that the run is too short for."""
    settings, epochs, batches = run.settings, run.settings.epoches, len(run.train_loader)
    updates = math.ceil(batches / settings.accumulate_steps) * epochs
    warmup = run.optim.schedule.warmup_steps
    if warmup > LONG_WARMUP * updates:
        when = "never" if warmup >= updates else "late"
        yield (
            f"the warm-up takes {warmup} of {updates} updates ({epochs} epochs of {updates // epochs}), and the "
            f"learning rate is {when} at its full value: shorten it ({_warmup_key(run)})"
        )
    restart = run.plan.restart_epoch
    if restart is not None and restart > epochs:
        yield (
            f"train_dataloader.collate_fn.stop_epoch {restart} lies beyond the last of {epochs} epochs: "
            "there is no second stage (null says so)"
        )
    policy = run.train_loader.dataset.transforms.stop_epoch
    if policy is not None and policy > epochs and policy != restart:
        yield (
            f"train_dataloader.dataset.transforms.policy.epoch {policy} lies beyond the last of {epochs} epochs: "
            "the strong augmentation never stops (policy: null says so)"
        )
    yield from _schedule(run, epochs)
    plan = FreezePlan.of(settings.freeze)
    until = None if plan is None else plan.until(updates // epochs)
    if until is not None and until >= updates:
        yield f"freeze.backbone holds for {until} updates and the run has {updates}: what it freezes never trains"
    if settings.print_freq > batches * epochs:
        yield f"print_freq is {settings.print_freq} and the run has {batches * epochs} batches: no line of losses comes"
    if settings.eval_every > epochs:
        yield f"eval_every is {settings.eval_every} and the run has {epochs} epochs: only the last one is evaluated"


def _schedule(run: Training, epochs: int) -> Iterator[str]:
    policy = run.optim.schedule.policy
    # one epoch has no room for a flat one and a last one
    if isinstance(policy, FlatCosine) and policy.flat_epochs + policy.no_aug_epochs > max(2, epochs):
        yield (
            f"lr_scheduler.flat_epochs {policy.flat_epochs} and no_aug_epochs {policy.no_aug_epochs} are more than the "
            f"{epochs} epochs of the run: the learning rate does not come down along its cosine"
        )
    if isinstance(policy, CosineAnnealingLR) and policy.t_max > epochs:
        yield (
            f"lr_scheduler.T_max {policy.t_max} is more than the {epochs} epochs of the run: the learning rate does "
            "not reach eta_min"
        )


def _warmup_key(run: Training) -> str:
    own = isinstance(run.optim.schedule.policy, FlatCosine)
    return "lr_scheduler.warmup_iter" if own else "lr_warmup_scheduler.warmup_duration"
