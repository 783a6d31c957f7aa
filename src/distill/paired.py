# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What methods have in common that compare what paired queries of student and teacher predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import check_choice
from ..losses.criterion import Criterion
from ..nn.types import Predictions, QueryGroup, Want
from .adapters import LAYER_PAIRINGS, LayerPairing, layers_to_teach
from .context import DistillationContext
from .kernels import confidence, weight_norm, weighted_mean
from .pairing import PAIRINGS, Pairing, QueryAligner, QueryPairs
from .points import PointInput, point_decoder, specific_points
from .taught import Batch, TeacherDistiller
from .teacher import CommonClasses, Teacher, TeacherOutput


class PairedDistiller(TeacherDistiller):
    """A method that compares queries in pairs.

    Args:
        weight, start: see :class:`~isdfine.distill.taught.TeacherDistiller`.
        pairing: which queries are pairs, see :class:`~isdfine.distill.pairing.QueryAligner`.
        threshold: of ``hungarian``: score of the teacher from which on a pair stands for an object; None for 0.5.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    pairings: ClassVar[tuple[str, ...]] = tuple(mode for mode in PAIRINGS if mode != "shared")
    """Those that the method can use: matching queries of two models are never the same."""
    reads_matches: ClassVar[bool] = False
    """Whether it reads which query of the student has which box, whatever the pairing."""

    def __init__(
        self,
        weight: float = 1.0,
        *,
        pairing: Pairing = "union",
        threshold: float | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, start)
        check_choice(f"{type(self).__name__}.pairing", pairing, self.pairings)
        self.aligner: QueryAligner = named(type(self).__name__, QueryAligner, pairing, threshold)

    def check(self, model: nn.Module, criterion: Criterion) -> None:
        reads = self.reads_matches or self.aligner.mode in ("gt_anchor", "union")
        if reads and not hasattr(criterion, "use_uni_set"):
            raise ValueError(
                f"{type(self).__name__} (pairing: {self.aligner.mode}) reads which queries have a box, but "
                f"{type(criterion).__name__} does not say: "
                + ("take another criterion or method" if self.reads_matches else "choose pairing: hungarian")
            )

    def pairs(self, context: DistillationContext, taught: TeacherOutput) -> QueryPairs:
        """The pairs of the matching queries, by the final layers; methods that pair alike share them."""
        mine, theirs, aligner = context.student.layers[-1], taught.output.layers[-1], self.aligner
        key = (aligner.mode, aligner.threshold)
        return context.once(key, lambda: aligner(mine, theirs, taught.classes, context.step))


class PredictionDistiller(PairedDistiller):
    """A method that compares predictions of paired queries, layer by layer; its losses are summed over layers.

    What a layer's pair weighs is the best score of the teacher's query in the layer that teaches, and the sum of these
    weights over all processes divides the loss.

    Args:
        weight, start, threshold: see :class:`PairedDistiller`.
        pairing: which queries are pairs, see :class:`~isdfine.distill.pairing.QueryAligner`; with ``shared`` the
            student's decoder answers the teacher's queries beside its own (as KD-DETR's specific points).
        layers: which layer learns from which, see :func:`~isdfine.distill.adapters.layers_to_teach`.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    pairings = PAIRINGS

    def __init__(self, weight: float = 1.0, *, layers: LayerPairing = "uniform", **options: Any) -> None:
        super().__init__(weight, **options)
        check_choice(f"{type(self).__name__}.layers", layers, LAYER_PAIRINGS)
        self.layers: LayerPairing = layers
        self.enter: PointInput | None = None
        if self.aligner.mode == "shared":
            self.teacher_want = Want(layers=True, taps=frozenset({"queries"}))

    @property
    def group(self) -> str:
        """Name of the teacher's queries in the student's decoder; no other method has it."""
        return f"{type(self).__name__} {id(self)}"

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        if self.aligner.mode != "shared":
            return
        name = type(self).__name__
        mine, theirs = point_decoder(name, "student", student), point_decoder(name, "teacher", teacher.model)
        if theirs.reference_dim < mine.reference_dim:
            raise ValueError(
                f"{name}.pairing: shared gives the teacher's queries to the student, but they start at points and the "
                "student's at boxes: choose another pairing"
            )
        self.enter = PointInput(mine, theirs.widths[0])

    def student_groups(self, batch: Batch, taught: TeacherOutput) -> list[QueryGroup]:
        if self.enter is None:
            return []
        return [self.enter(specific_points(self.group, taught.output.taps["queries"]))]

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        answers = context.student if self.enter is None else context.student.groups[self.group]
        mine, theirs = answers.layers, taught.output.layers
        if self.enter is None:
            pairs = self.pairs(context, taught)
        else:
            pairs = self.aligner(mine[-1], theirs[-1], taught.classes, context.step)
        layers = layers_to_teach(len(mine), len(theirs), self.layers)
        student = _picked([mine[layer] for layer, _ in layers], pairs.image, pairs.student)
        teacher = _picked([theirs[layer] for _, layer in layers], pairs.image, pairs.teacher)
        logits = taught.classes.of_student(student.logits), taught.classes.of_teacher(teacher.logits)
        weights = confidence(logits[1])
        distances = self.distances(Predictions(logits[0], student.boxes), Predictions(logits[1], teacher.boxes))
        norm = weight_norm(weights)
        return {name: weighted_mean(distance, weights, norm).sum() for name, distance in distances.items()}

    def distances(self, student: Predictions, teacher: Predictions) -> dict[str, Tensor]:
        """(K, P) of every pair in each layer by the names of the losses.

        Args:
            student, teacher: logits (K, P, C) of the classes that both know, boxes (K, P, 4).
        """
        raise NotImplementedError(f"{type(self).__name__} must return its distances from distances(student, teacher)")


def _picked(layers: list[Predictions], image: Tensor, query: Tensor) -> Predictions:
    """Rows of (B, Q, ...) of every layer: (K, P, ...)."""
    return Predictions(
        torch.stack([layer.logits[image, query] for layer in layers]),
        torch.stack([layer.boxes[image, query] for layer in layers]),
    )


def named(who: str, made: Any, *values: Any, **options: Any) -> Any:
    """What a class or function makes of options, with the method's name before its refusal (ValueError)."""
    try:
        return made(*values, **options)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from error
