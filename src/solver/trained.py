# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What trains: the model with the losses and distillers beside it in one module, and the optimiser of its weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core import dist
from ..core.config import Config
from ..core.errors import ConfigError
from ..data.label_space import LabelSpace
from ..data.loader import DataLoader
from ..distill.context import DistillationContext
from ..distill.diagnostics import diagnosed
from ..distill.objective import Objective, build_objective
from ..nn.capture import check_want
from ..optim.ema import ModelEMA, NoEma
from ..optim.freeze import Freeze
from ..optim.param_groups import trainable_parameters
from ..optim.precision import Precision
from ..optim.schedule import Schedule
from ..optim.step import Optim
from .teacher import build_lesson

logger = logging.getLogger(__name__)

RATIO_EVERY = 500
"""Steps between comparisons of the teacher's gradient with that of the other losses, which cost two backward passes."""
USUAL_RATIO = (0.1, 1.0)


class Trained(nn.Module):
    """What the optimiser, distributed training, clipping, checkpoints and resuming see.

    The average (EMA), exports and inference see ``model`` alone.

    Args:
        model: a detector.
        objective: criterion and distillers.
        diagnose: let the model return what diagnostics read too.

    Raises:
        ValueError: the model cannot return what a distiller reads.
    """

    def __init__(self, model: nn.Module, objective: Objective, *, diagnose: bool = False) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.want = diagnosed(model, objective.want) if diagnose else objective.want
        check_want(model, self.want)

    @classmethod
    def of(
        cls,
        config: Config,
        model: nn.Module,
        device: torch.device,
        labels: LabelSpace,
        loader: DataLoader | None = None,
    ) -> Trained:
        """What a config trains of a model that is built from it, and beside it.

        Args:
            labels: the data's classes.
            loader: of the training data, see :func:`~isdfine.solver.teacher.build_lesson`.
        """
        objective = build_objective(config, model, build_lesson(config, labels, device, loader))
        return cls(model, objective.to(device), diagnose=config.settings.diagnostics)

    def forward(
        self,
        images: Tensor,
        targets: list[dict[str, Tensor]],
        progress: float = 0.0,
        *,
        step_number: int = 0,
        epoch: int = 0,
        watch: Callable[[DistillationContext], object] | None = None,
    ) -> dict[str, Tensor]:
        """One step's losses: name -> weighted scalar.

        Args:
            images: (B, 3, H, W) in [0, 1].
            targets: one per image; in a padded batch each with its ``image_size``.
            progress, step_number, epoch: see :class:`~isdfine.distill.context.DistillationContext`.
            watch: called with the matched step after the losses (diagnostics).
        """
        context = self.objective.run(
            self.model, images, targets, progress, step_number=step_number, epoch=epoch, want=self.want
        )
        terms = self.objective.terms(context)
        if context.teacher is not None and step_number % RATIO_EVERY == 0:
            context = replace(context, gradient_ratio=self.objective.gradient_ratio(terms, self.model))
            _say_ratio(context.gradient_ratio, step_number)
        if watch is not None:
            watch(context)
        return terms

    @property
    def backbone(self) -> nn.Module | None:
        """The model's, whose stages may learn at rates of their own; None where it has none."""
        backbone: nn.Module | None = getattr(self.model, "backbone", None)
        return backbone

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All that is trained, as the patterns of an optimiser see it: the model's by their own names, the rest as
        ``criterion.X`` and ``distillers.N.X``."""
        model = trainable_parameters(self.model)
        yield from model.items()
        known = {id(weight) for weight in model.values()}  # of the student itself, which a distiller may hold
        yield from (
            (name, weight) for name, weight in trainable_parameters(self.objective).items() if id(weight) not in known
        )

    def check_covered(self, optimizer: Optimizer) -> None:
        """Refuse an optimiser that would leave weights as they are (ConfigError)."""
        held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        left = [name for name, weight in self.trainable_parameters() if id(weight) not in held]
        if left:
            raise ConfigError(
                f"optimizer: {type(optimizer).__name__} leaves out {len(left)} of the weights that are to be trained "
                f"(such as {left[0]}): give it all of its argument `model`, or set requires_grad of those to False"
            )

    def without_gradient(self, optimizer: Optimizer) -> list[str]:
        """Weights beside the model that no step has moved so far, where the optimiser keeps a state that tells."""
        if not optimizer.state:
            return []
        named = self.objective.named_parameters()
        return [name for name, weight in named if weight.requires_grad and weight not in optimizer.state]


def _say_ratio(ratio: Tensor | None, step: int) -> None:
    """A line for the log; a warning where one of the two hardly counts."""
    if ratio is None or not dist.is_main():
        return
    value, (least, most) = float(ratio), USUAL_RATIO
    text = "step %d: the teacher's losses move the student %.3g times as much as all others"
    if least <= value <= most:
        logger.info(text, step, value)
    else:
        advice = f"{least:g} to {most:g} is usual; change the weights of its methods, or teacher.alpha"
        logger.warning(f"{text}: {advice}", step, value)


def build_optim(config: Config, trained: Trained, device: torch.device, batches: int) -> tuple[Optim, Freeze]:
    """Optimiser, schedule, EMA and precision of a run, and what it freezes.

    Args:
        batches: of an epoch.
    """
    settings = config.settings
    name = settings.training_precision(device.type)
    if settings.use_amp and name == "fp32" and dist.is_main():
        asked = config.origins["use_amp"].startswith("override ")  # the recipes say it for GPUs
        level = logging.WARNING if asked else logging.INFO
        logger.log(level, "use_amp needs a GPU: training in fp32 (precision: bf16 is mixed precision on a CPU)")
    scaler = config.build("scaler", device=device.type) if name == "fp16" and config.get("scaler") else None
    optimizer = config.build("optimizer", model=trained)
    trained.check_covered(optimizer)
    steps_per_epoch = math.ceil(batches / settings.accumulate_steps)
    freeze = Freeze(trained.model, settings.freeze, steps_per_epoch, config.origins.get("freeze"))
    schedule = Schedule(
        optimizer,
        config.build("lr_scheduler") if config.get("lr_scheduler") else None,
        config.build("lr_warmup_scheduler") if config.get("lr_warmup_scheduler") else None,
        steps_per_epoch=steps_per_epoch,
        total_epochs=settings.epoches,
        frozen=freeze.frozen_groups(optimizer),
    )
    optim = Optim(
        optimizer,
        schedule,
        _build_ema(config, trained.model),
        Precision(name, device, scaler),
        accumulate_steps=settings.accumulate_steps,
        on_nonfinite=settings.nonfinite,
    )
    return optim, freeze


def _build_ema(config: Config, model: nn.Module) -> ModelEMA | NoEma:
    if not config.settings.use_ema:
        return NoEma(model)
    ema: ModelEMA = config.build("ema", model=model) if config.get("ema") else ModelEMA(model)
    return ema
