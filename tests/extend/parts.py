# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence

from isdfine.core import dist
from isdfine.core.registry import register
from isdfine.distill.context import DistillationContext, Distiller
from isdfine.load import load_detector
from isdfine.losses.criterion import DFINECriterion
from isdfine.losses.matched import MatchedStep
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.boxes import cxcywh_to_xyxy, inverse_sigmoid
from isdfine.nn.types import BatchDetections, DetectorOutput, Predictions, QueryGroup, Target, Want
from isdfine.solver.callbacks import Callback
from isdfine.solver.folder import RunFolder
from isdfine.solver.progress import Progress
from isdfine.solver.training import Training
from isdfine.solver.writers import Writer


@register
class PlainBackbone(nn.Module):
    """A backbone: images (B, 3, H, W) -> maps at strides 16 and 32, fine to coarse."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.channels, self.strides = [width, 2 * width], [16, 32]
        self.stem = nn.Sequential(nn.Conv2d(3, width, 16, stride=16), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.stem(images)
        return [fine, self.last(fine)]


@register
class PlainEncoder(nn.Module):
    """An encoder: the backbone's maps -> maps of one width."""

    def __init__(self, in_channels: list[int], strides: list[int], hidden_dim: int = 16) -> None:
        super().__init__()
        self.in_channels, self.strides = in_channels, strides
        self.channels = [hidden_dim] * len(in_channels)
        self.projections = nn.ModuleList(nn.Conv2d(channels, hidden_dim, 1) for channels in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [projection(level) for projection, level in zip(self.projections, maps)]


@register
class TruthQueries(nn.Module):
    """A source of query groups: one query at every ground-truth box, to be predicted again by every decoder layer."""

    def __init__(self, hidden_dim: int = 16) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.zeros(hidden_dim))

    def forward(self, features: Sequence[Tensor], targets: Sequence[Target]) -> QueryGroup:
        boxes = pad_sequence([target["boxes"].float() for target in targets], batch_first=True)  # (B, T, 4)
        counts = torch.tensor([len(target["boxes"]) for target in targets], device=boxes.device)
        number = torch.arange(boxes.shape[1], device=boxes.device)
        padding = number >= counts[:, None]  # (B, T): slots of images with fewer boxes than the fullest one
        return QueryGroup(
            name="truth",  # the losses are called loss_vfl_truth_0, ...
            content=self.content.expand(*boxes.shape[:2], -1),
            reference_logits=inverse_sigmoid(boxes),
            assigned=number.expand_as(padding).masked_fill(padding, -1),
            padding=padding,
        )


@register
class AreaCriterion(DFINECriterion):
    """D-FINE's criterion and one term more: the difference in area of every predicted box and its target."""

    def __init__(self, matcher: HungarianMatcher, area_weight: float = 1.0, **options: Any) -> None:
        super().__init__(matcher, **options)
        self.area_weight = area_weight

    def terms(self, step: MatchedStep) -> dict[str, Tensor]:
        named = super().terms(step)
        group = step.matching
        boxes, union = group.boxes, group.pairs.union  # S prediction sets, the pairs that the sets agree on
        predicted, target = (side[:, union, 2:].prod(-1) for side in (boxes.predicted, boxes.target))  # (S, P)
        losses = (predicted - target).abs().sum(-1) / group.counts.union * self.area_weight
        return named | {f"loss_area{suffix}": loss for suffix, loss in zip(group.stack.suffixes, losses)}


@dataclass(frozen=True)
class NearestStep(MatchedStep):
    """A step with the pairs of the criterion below, beside the model's output."""

    targets: Sequence[Target] = ()
    nearest: Sequence[Tensor] = ()  # per image (T,): the query of every box


@register
class NearestCriterion:
    """A criterion from scratch: the final layer's query nearest to a box learns the box and its class."""

    def match(self, output: DetectorOutput, targets: Sequence[Target]) -> NearestStep:
        final = output.layers[-1].boxes.detach()
        distances = [torch.cdist(target["boxes"], boxes, p=1) for boxes, target in zip(final, targets)]
        return NearestStep(output, targets=targets, nearest=[distance.argmin(1) for distance in distances])

    def terms(self, step: MatchedStep) -> dict[str, Tensor]:
        assert isinstance(step, NearestStep)
        final = step.output.layers[-1]
        wanted, distance = torch.zeros_like(final.logits), final.boxes.sum() * 0
        for image, (target, query) in enumerate(zip(step.targets, step.nearest)):
            wanted[image, query, target["labels"]] = 1
            distance = distance + (final.boxes[image, query] - target["boxes"]).abs().sum()
        count = max(1, sum(len(query) for query in step.nearest))
        scores = binary_cross_entropy_with_logits(final.logits.float(), wanted.float(), reduction="sum")
        return {"loss_box": 5 * distance / count, "loss_class": scores / count}


@register
class HiddenDistillation(Distiller):
    """A distiller with weights: through a learned map, the first decoder layer's queries become like the last one's."""

    want = Want(taps=frozenset({"hidden"}))

    def __init__(self, hidden_dim: int = 16, weight: float = 1.0, after: int = 0) -> None:
        super().__init__()
        self.adapter = nn.Linear(hidden_dim, hidden_dim)
        self.weight, self.after = weight, after

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        hidden = context.student.taps["hidden"]  # (B, Q, D) per layer
        distance = (self.adapter(hidden[0].float()) - hidden[-1].detach().float()).square().mean()
        factor = self.weight if context.step_number >= self.after else 0.0
        return {"loss_hidden_aux_0": factor * distance}


@register
class TeacherDistillation(Distiller):
    """A distiller with a frozen teacher, another run's model: the student's tokens become like the teacher's."""

    want = Want(taps=frozenset({"memory"}))

    def __init__(self, teacher: str, hidden_dim: int = 16, weight: float = 1.0) -> None:
        super().__init__()
        self.teacher = (load_detector(teacher).model.requires_grad_(False),)  # in eval mode; see above for the tuple
        self.adapter = nn.Linear(hidden_dim, hidden_dim)
        self.weight = weight

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        seen = context.student.taps["memory"].tokens.float()  # (B, S, D)
        teacher = self.teacher[0].to(seen.device)
        with torch.no_grad():
            known = teacher(context.images, image_sizes=context.image_sizes, want=self.want).taps["memory"].tokens
        return {"loss_teacher": self.weight * (self.adapter(seen) - known).square().mean()}


@register
class BestPerQuery(nn.Module):
    """A post-processor: the best class of every query, the surest queries first."""

    def __init__(self, keep: int = 100) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, predictions: Predictions, orig_target_sizes: Tensor) -> BatchDetections:
        score, label = predictions.logits.sigmoid().max(-1)  # (B, Q)
        scores, query = score.topk(min(self.keep, score.shape[1]), dim=1)
        boxes = cxcywh_to_xyxy(predictions.boxes.gather(1, query[..., None].expand(-1, -1, 4)))
        return BatchDetections(label.gather(1, query), boxes * orig_target_sizes.repeat(1, 2)[:, None], scores)


@register
class Notes(Writer):
    """A writer: a line of text for every evaluation, in a file beside the checkpoints."""

    def __init__(self, file: str = "notes.txt") -> None:
        self.file = file

    def open(self, folder: RunFolder, progress: Progress, config: Mapping[str, Any]) -> None:
        self.path = folder.path / self.file

    def write(self, kind: str, step: int, values: Mapping[str, float], *, epoch: int) -> None:
        if kind == "val":
            with self.path.open("a") as notes:
                notes.write(f"epoch {epoch}, step {step}: AP {values['AP']:.3f}\n")


@register
class KeepWorst(Callback):
    """A callback: copies the weights of the epoch with the lowest AP, to look at what went wrong in it."""

    def __init__(self, name: str = "worst.pth") -> None:
        self.name, self.lowest, self.ap = name, math.inf, 0.0

    def on_evaluation(self, run: Training, epoch: int, metrics: Mapping[str, float]) -> None:
        self.ap = metrics["AP"]

    def on_epoch_end(self, run: Training, epoch: int) -> None:
        if dist.is_main() and self.ap < self.lowest:
            self.lowest = self.ap
            shutil.copyfile(run.folder.last, run.folder.path / self.name)
