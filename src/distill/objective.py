# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Everything a training step minimises: the criterion's terms and the distillers', as the config says."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn

from ..core import dist
from ..core.config import Config
from ..core.errors import ConfigError
from ..losses.criterion import Criterion
from ..losses.matched import MatchedStep
from ..nn.capture import check_want
from ..nn.padding import image_sizes_of
from ..nn.types import TRAINING, DetectorOutput, Target, Want
from .context import DistillationContext, Distiller, counted, predicting_layers, told_apart
from .layers import GOLSD
from .start import Moment
from .taught import Batch, Lesson, TeacherDistiller, acting_at, check_cacheable, moment_of, wanted

logger = logging.getLogger(__name__)

DISTILLERS = Distiller.slot


class Objective(nn.Module):
    """Match once, score with the criterion, distil.

    Args:
        criterion: the supervised losses.
        distillers: any number, also several of one class, whose losses are then told apart by a number
            (``loss_isd_aux_0``, ``loss_2_isd_aux_0``); None for the default of official files: GO-LSD wherever the
            criterion has local losses and a weight ``loss_ddf``.
        lesson: the teacher, where distillers learn from one; it is no module of the objective.

    Raises:
        ValueError: a distiller that leaves open what the criterion does not say, or two of different classes of which
            one takes the other's place; both begin with ``distillers.N: ``.
    """

    def __init__(
        self, criterion: Criterion, distillers: Sequence[Distiller] | None = None, lesson: Lesson | None = None
    ) -> None:
        super().__init__()
        given = default_distillers(criterion) if distillers is None else distillers
        check_together(given)
        self.criterion = criterion
        bound = [_bound(index, distiller, criterion) for index, distiller in enumerate(given)]
        self.distillers: Sequence[Distiller] = nn.ModuleList(bound)  # type: ignore[assignment]
        self.lesson = lesson
        self.methods = tuple(distiller for distiller in bound if isinstance(distiller, TeacherDistiller))

    @property
    def want(self) -> Want:
        """What the model must return in a training step."""
        return reduce(or_, (distiller.want for distiller in self.distillers), TRAINING)

    def forward(self, output: DetectorOutput, targets: Sequence[Target], progress: float = 0.0) -> dict[str, Tensor]:
        """:meth:`terms` of :meth:`context`, of an output that is there already."""
        return self.terms(self.context(output, targets, progress))

    def run(
        self,
        student: nn.Module,
        images: Tensor,
        targets: Sequence[Target],
        progress: float = 0.0,
        *,
        step_number: int = 0,
        epoch: int = 0,
        want: Want | None = None,
    ) -> DistillationContext:
        """Call the student, once, for all that losses and distillers read, and match what it returns.

        Args:
            student: a detector in train mode.
            images: (B, 3, H, W) in [0, 1].
            targets: one per image; in a padded batch each with its ``image_size``.
            progress, step_number, epoch: see :class:`~isdfine.distill.context.DistillationContext`.
            want: None for :attr:`want`.
        """
        want, sizes = want or self.want, image_sizes_of(targets)
        asked: dict[str, Any] = {} if want == TRAINING else {"want": want}  # any model knows the default of train mode
        seen: dict[str, Any] = {"step_number": step_number, "epoch": epoch, "images": images, **sizes}
        if self.lesson is not None:
            batch = Batch(images, targets, sizes.get("image_sizes"), Moment(step_number, epoch, progress))
            if (taught := self.lesson.ask(self.methods, batch)) is not None:
                seen["teacher"], acting = taught, acting_at(self.methods, batch.moment)
                asked["groups"] = [group for method in acting for group in method.student_groups(batch, taught)]
        output = student(images, targets, **sizes, **asked)
        return self.context(output, targets, progress, **seen)

    def context(
        self, output: DetectorOutput, targets: Sequence[Target], progress: float = 0.0, **seen: Any
    ) -> DistillationContext:
        """Match the output of a student in train mode; ``seen`` are further fields of the context."""
        return DistillationContext(output, self.criterion.match(output, targets), progress, **seen)

    def terms(self, context: DistillationContext) -> dict[str, Tensor]:
        """Name -> weighted scalar, prediction set by prediction set; the objective is their sum.

        Raises:
            ConfigError: a distiller returns something else than scalars by name, or a loss that is there already.
        """
        named = dict(self._mixed(self.criterion, self.criterion.terms(context.step)))
        if watching := [method.start for method in self.methods if method.start.mode == "plateau"]:
            total = torch.stack([loss.detach() for loss in named.values()]).sum()
            for start in watching:
                start.observe(total, moment_of(context))
        with torch.autocast(context.student.layers[-1].boxes.device.type, enabled=False):
            for index, (count, distiller) in enumerate(counted(self.distillers)):
                losses = distiller(context)
                if not isinstance(losses, Mapping) or not all(_is_scalar(loss) for loss in losses.values()):
                    raise ConfigError(
                        f"distillers.{index} ({type(distiller).__name__}): forward must return a dict of losses by "
                        "name, each a tensor of one number"
                    )
                losses = told_apart(losses, count)
                twice = named.keys() & losses.keys()
                if twice:
                    raise ConfigError(
                        f"distillers.{index} ({type(distiller).__name__}) returns {', '.join(sorted(twice))}, which is "
                        "there already: give its losses names of their own"
                    )
                named |= self._mixed(distiller, losses)
        return in_order(named, context.step)

    def gradient_ratio(self, terms: Mapping[str, Tensor], student: nn.Module) -> Tensor | None:
        """Norm of the gradient of the losses with a teacher over that of all others, a scalar; the graph stays.

        None where the others do not count (a ``beta`` of 0).

        Args:
            terms: of :meth:`terms`, of a step at which the teacher was asked.
            student: the gradients of its weights are meant.
        """
        if self.lesson is None or not self.lesson.beta:
            return None
        taught = {
            name
            for count, distiller in counted(self.distillers)
            if isinstance(distiller, TeacherDistiller)
            for name in told_apart(dict.fromkeys(distiller.names), count)
        }
        weights = [weight for weight in student.parameters() if weight.requires_grad]
        norms = []
        for chosen in (taught, terms.keys() - taught):
            loss = torch.stack([terms[name] for name in terms if name in chosen]).sum()
            gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
            squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
            norms.append(torch.stack(squares).sum().sqrt())
        return norms[0] / norms[1]

    def _mixed(self, source: object, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Losses of the criterion or a distiller with their factor in the mix; without a teacher as they are."""
        if self.lesson is None:
            return losses
        factor = self.lesson.alpha if isinstance(source, TeacherDistiller) else self.lesson.beta
        return losses if factor == 1 else {name: factor * loss for name, loss in losses.items()}


def _is_scalar(loss: object) -> bool:
    return isinstance(loss, Tensor) and loss.ndim == 0


def check_together(distillers: Sequence[Distiller]) -> None:
    """Refuse a distiller beside one of another class whose place it takes (ValueError)."""
    for index, distiller in enumerate(distillers):
        for place, other in enumerate(distillers[:index]):
            if type(other) is not type(distiller) and distiller.compares and distiller.compares == other.compares:
                raise ValueError(
                    f"distillers.{index}: {type(distiller).__name__} compares the {distiller.compares} of the decoder "
                    f"layers, as {type(other).__name__} (distillers.{place}) does, and takes its place: keep one of "
                    "the two"
                )


def _bound(index: int, distiller: Distiller, criterion: Criterion) -> Distiller:
    """The distiller with what the criterion gives it; what it refuses with its place in the list."""
    try:
        return distiller.bound(criterion)
    except ValueError as error:
        raise ValueError(f"distillers.{index}: {error}") from error


def default_distillers(criterion: Criterion) -> list[Distiller]:
    """What official files mean, which know no distillers: GO-LSD where the criterion weighs it."""
    losses, weights = (getattr(criterion, name, ()) for name in ("losses", "weight_dict"))
    return [GOLSD()] if "local" in losses and "loss_ddf" in weights else []


def in_order(named: Mapping[str, Tensor], step: MatchedStep) -> dict[str, Tensor]:
    """Terms set by set, as the sets stand in the step: the total's last digits depend on the order of its summands.

    A name belongs to the set whose suffix it ends with, to the final layer (which has none) otherwise.
    """
    suffixes = [suffix for group in step.scored for suffix in group.stack.suffixes]
    rank = {suffix: index for index, suffix in enumerate(suffixes)}
    by_length = sorted(suffixes, key=len, reverse=True)

    def place(name: str) -> int:
        return rank.get(next((suffix for suffix in by_length if name.endswith(suffix)), ""), 0)

    return {name: named[name] for name in sorted(named, key=place)}


def build_objective(config: Config, model: nn.Module, lesson: Lesson | None = None) -> Objective:
    """The training objective.

    Args:
        config: with a section ``criterion``; ``distillers`` absent or null means the official default, with the
            arguments of its section ``GOLSD`` if there is one.
        model: as built, before it is wrapped or compiled.
        lesson: the teacher of the config's section ``teacher``.

    Raises:
        ConfigError: no criterion, a teacher from whom no distiller learns, a distiller without its teacher or that
            stands twice with the same arguments, or one that the models or the criterion cannot serve; with file, line
            and config path.
    """
    criterion = config.build("criterion")
    if not isinstance(criterion, Criterion):
        raise ConfigError(
            f"{_place(config, 'criterion')}: {type(criterion).__name__} is no criterion: it needs match(output, "
            "targets) and terms(step), as isdfine.losses.criterion.Criterion describes them"
        )
    if dist.is_main():
        for text in getattr(criterion, "idle", ()):
            logger.warning("%s: %s", _place(config, "criterion"), text)
    listed = config.get(DISTILLERS) is not None
    if listed:
        _refuse_doubles(config)
    given: Sequence[Distiller] = config.build(DISTILLERS) if listed else _default(config, criterion, model)
    with _at(config.origins[DISTILLERS] if listed else _place(config, "criterion")):
        objective = Objective(criterion, given, lesson)
    if lesson is not None and not objective.methods:
        raise ConfigError(
            f"{_place(config, 'teacher')}: nobody learns from it: list a method with a teacher under distillers "
            "(docs/distillation.md), or remove the teacher"
        )
    for index, distiller in enumerate(objective.distillers):
        with _at(_place(config, f"{DISTILLERS}.{index}" if listed else "criterion")):
            distiller.check(model, criterion)
            if isinstance(distiller, TeacherDistiller):
                _introduce(distiller, model, lesson)
            check_want(model, distiller.want)
    if lesson is not None and lesson.cache is not None:
        lesson.cache.open(wanted(objective.methods))
    _warn_of_idle_sections(config, given)
    return objective


def _introduce(method: TeacherDistiller, student: nn.Module, lesson: Lesson | None) -> None:
    """Let a method meet the teacher (ValueError)."""
    name = type(method).__name__
    if lesson is None:
        raise ValueError(f"{name} learns from a teacher, and there is none: add teacher: {{checkpoint: FILE}}")
    method.prepare(student, lesson.teacher, lesson.classes)
    if lesson.cache is not None:
        check_cacheable(method)
    try:
        check_want(lesson.teacher.model, method.teacher_want)
    except ValueError as error:
        raise ValueError(f"{name}: the teacher ({error})") from error


def _default(config: Config, criterion: Criterion, model: nn.Module) -> list[Distiller]:
    """What official files mean; a single layer has nobody to teach."""
    given = default_distillers(criterion) if predicting_layers(model) > 1 else []
    return [config.build(type(distiller).__name__) for distiller in given]


def _refuse_doubles(config: Config) -> None:
    """Two distillers of one class are meant to differ."""
    entries = [entry if isinstance(entry, dict) else {"type": entry} for entry in config.get(DISTILLERS)]
    for index, entry in enumerate(entries):
        if entry in entries[:index]:
            raise ConfigError(
                f"{_place(config, f'{DISTILLERS}.{index}')}: {entry['type']} stands there twice with the same "
                "arguments: keep one, or let them differ"
            )


def _warn_of_idle_sections(config: Config, used: Sequence[Distiller]) -> None:
    """Point out arguments of distillers that are not used: they change nothing."""
    names = {type(distiller).__name__ for distiller in used}
    for name in config.registry:
        idle = issubclass(config.registry[name], Distiller) and name not in names
        if idle and config.get(name) and dist.is_main():
            logger.warning("%s: has no effect, because %s does not list it", _place(config, name), DISTILLERS)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say where in the config an object's refusal comes from."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _place(config: Config, key: str) -> str:
    return f"{config.origins[key]}: {key}"
