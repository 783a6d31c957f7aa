# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What every distiller gets and what it must offer; when in a run it acts, and which layer learns from which."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, get_args

from torch import Tensor, nn

from ..core.errors import check_choice, check_non_negative, check_positive
from ..losses.criterion import Criterion
from ..losses.matched import MatchedStep
from ..nn.types import DetectorOutput, Want
from .teacher import TeacherOutput

T = TypeVar("T")
Direction = Literal["deep_to_shallow", "shallow_to_deep"]
DIRECTIONS: tuple[str, ...] = get_args(Direction)


@dataclass(frozen=True)
class DistillationContext:
    """One training step as distillers see it."""

    student: DetectorOutput
    step: MatchedStep
    """The same output, matched."""
    progress: float
    """Share of the run's optimiser steps that are done, 0 at the first step, below 1 at the last."""
    step_number: int = 0
    """Optimiser steps that are done."""
    epoch: int = 0
    """Passes over the data that are done."""
    images: Tensor | None = None
    """(B, 3, H, W) in [0, 1], what the student saw; None where a given output is scored, as in measurements."""
    image_sizes: Tensor | None = None
    """(B, 2) height and width in pixels of each image inside its canvas; None where the images fill it."""
    teacher: TeacherOutput | None = None
    """What the teacher says of the same images; None without one, and at steps at which nobody learns from it."""
    gradient_ratio: Tensor | None = None
    """How the teacher's gradient compares with that of the other losses, where it was measured."""
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returns, made once in this step for all distillers that ask by an equal key."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


class Distiller(nn.Module):
    """A source of named losses beside the criterion's.

    What a distiller makes in its constructor, in :meth:`bound` or in :meth:`check` and that has weights (adapters,
    projections) is trained, clipped, saved and resumed with the model; it is no part of the average, of an export or of
    inference. A frozen teacher is none of that: keep it in a tuple, where torch does not look for modules.
    """

    slot: ClassVar[str] = "distillers"
    """Top-level list of a config in which it may stand."""
    compares: ClassVar[str] = ""
    """What of the decoder layers it compares, in the words of messages: a list may hold one distiller for each. Empty
    for what goes beside all others."""
    want: Want = Want()
    """What the model must return for it in training, beside the predictions of all layers."""

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        """Weighted scalars by log name, the same names at every step; called outside autocast.

        Raises:
            ValueError: the output lacks what this distiller reads.
        """
        raise NotImplementedError(f"{type(self).__name__} must return its losses from forward(context)")

    def check(self, model: nn.Module, criterion: Criterion) -> None:
        """Refuse a model or criterion that cannot serve this distiller, before the first step (ValueError)."""

    def bound(self, criterion: Criterion) -> Distiller:
        """This distiller, with what it leaves open taken from the criterion.

        Raises:
            ValueError: the criterion does not say it either.
        """
        return self

    def layer_pairs(self, layers: int) -> list[tuple[int, int]]:
        """(student, teacher) decoder layers, 0-based, of a model with this many; empty where edges are not compared.

        Diagnostics report the divergence of these pairs.
        """
        return []

    def diagnostics(self, context: DistillationContext) -> dict[str, Tensor]:
        """Further scalars for the log, by name: without a graph, and no part of the objective."""
        return {}


def counted(distillers: Sequence[Distiller]) -> Iterator[tuple[int, Distiller]]:
    """The distillers, each with how many of its class stand in the list up to there: 1 for the first."""
    for index, distiller in enumerate(distillers):
        yield sum(type(other) is type(distiller) for other in distillers[: index + 1]), distiller


def told_apart(named: Mapping[str, T], count: int) -> dict[str, T]:
    """What distiller number ``count`` of its class returns, by names of its own: ``loss_isd`` of the second becomes
    ``loss_2_isd``."""
    if count == 1:
        return dict(named)
    return {
        f"loss_{count}_{name.removeprefix('loss_')}" if name.startswith("loss_") else f"{count}_{name}": value
        for name, value in named.items()
    }


class LayerDistillation(Distiller):
    """Decoder layers of the student teach each other: what the methods of that kind have in common.

    Args:
        weight: factor of the loss, 0 or more; None where :meth:`bound` takes it from the criterion.
        temperature: of both softmaxes, above 0; the loss is multiplied by its square.
        ramp: shares of the run's optimiser steps between which the loss fades in (:class:`Ramp`); [0, 0]: always whole.
        direction: ``deep_to_shallow`` (the next deeper layer teaches) or ``shallow_to_deep`` (the previous one teaches,
            which holds refinement back: expect something of it at small weight only).
        span: distance of student and teacher in layers, cut off at the ends. 1 is the neighbour; L - 1 is GO-LSD.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    def __init__(
        self,
        weight: float | None,
        temperature: float,
        *,
        ramp: Sequence[float] = (0.0, 0.0),
        direction: Direction = "deep_to_shallow",
        span: int = 1,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if weight is not None:
            check_non_negative(f"{name}.weight", weight)
        check_positive(f"{name}.temperature", temperature)
        check_choice(f"{name}.direction", direction, DIRECTIONS)
        check_span(f"{name}.span", span)
        self.weight, self.temperature = weight, temperature
        self.ramp = Ramp(ramp, f"{name}.ramp")
        self.direction: Direction = direction
        self.span = span

    def factor(self, context: DistillationContext) -> float:
        """``weight`` times the ramp; where it is 0 nothing is computed, and nothing can disturb the run."""
        assert self.weight is not None, "bound() gives the weight"
        return self.weight * self.ramp(context.progress)

    def pairs(self, layers: int) -> list[tuple[int, int]]:
        """(student, teacher) decoder layers, 0-based, of a model with this many."""
        return [(student - 1, teacher - 1) for student, teacher in layer_pairs(layers, self.direction, self.span)]


class Ramp:
    """Factor that grows linearly from 0 to 1 over a part of the run (docs/method.md 7.4).

    Args:
        span: where the growth begins and where it is complete, as shares of the run's optimiser steps, in [0, 1].
            Two equal numbers switch on there; (0, 0) means always on.
        name: how messages call it.

    Raises:
        ValueError: not two ascending shares.
    """

    def __init__(self, span: Sequence[float], name: str = "ramp") -> None:
        if len(span) != 2 or not 0 <= span[0] <= span[1] <= 1:
            raise ValueError(
                f"{name} is {list(span)}: give [start, end] as shares of the run, 0 <= start <= end <= 1; "
                "[0, 0] acts from the first step"
            )
        self.start, self.end = map(float, span)

    def __call__(self, progress: float) -> float:
        """Factor in [0, 1] at a share of the run."""
        if progress >= self.end:
            return 1.0
        if progress <= self.start:
            return 0.0
        return (progress - self.start) / (self.end - self.start)


def layer_pairs(layers: int, direction: Direction, span: int = 1) -> list[tuple[int, int]]:
    """Neighbouring decoder layers as student and teacher (docs/method.md 7.2).

    Args:
        layers: decoder layers L; the first is 1, the last is the one that detects.
        direction: ``deep_to_shallow``: every layer but the last learns from the one ``span`` layers deeper;
            ``shallow_to_deep``: every layer but the first learns from the one ``span`` layers before it.
        span: distance, 1 or more; cut off at the last or first layer.

    Returns: (student, teacher), 1-based, students ascending, each once; empty for one layer.

    Raises:
        ValueError: an unknown direction, or a distance below 1.
    """
    check_choice("direction", direction, DIRECTIONS)
    check_span("span", span)
    if direction == "deep_to_shallow":
        return [(student, min(student + span, layers)) for student in range(1, layers)]
    return [(student, max(student - span, 1)) for student in range(2, layers + 1)]


def check_span(name: str, span: int) -> None:
    """Refuse a distance below one layer (ValueError)."""
    if span < 1:
        raise ValueError(f"{name} is {span}: give the distance between student and teacher in layers, 1 or more")


def predicting_layers(model: nn.Module) -> int:
    """Decoder layers that predict in training: ``decoder.num_predicting_layers``, or 2 where a decoder does not say."""
    layers: int = getattr(getattr(model, "decoder", model), "num_predicting_layers", 2)
    return layers


def check_layers(who: str, model: nn.Module) -> None:
    """Refuse a decoder of which a single layer predicts in training (ValueError)."""
    if (layers := predicting_layers(model)) < 2:
        section = type(getattr(model, "decoder", model)).__name__
        raise ValueError(
            f"{who} needs two decoder layers or more, but {layers} predicts in training: raise "
            f"{section}.num_layers and keep aux_loss: True, or take {who} out (distillers: [] for none)"
        )
