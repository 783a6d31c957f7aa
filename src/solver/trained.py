# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Everything of a run that has weights to train, in one module: the model, and the losses and distillers beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.errors import ConfigError
from ..distill.context import DistillationContext
from ..distill.diagnostics import diagnosed
from ..distill.objective import Objective
from ..nn.capture import check_want
from ..optim.param_groups import trainable_parameters


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
