# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""D-FINE's objective the plain way: one image, one prediction set, one pair at a time, from docs/method.md 6.

Slow, without stacking and without our own functions, so that it can disagree with them. Float64 throughout.
"""

import math
from collections import Counter

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from isdfine.nn.types import DetectorOutput, Predictions

WEIGHTS = {"vfl": 1.0, "bbox": 5.0, "giou": 2.0, "fgl": 0.15, "ddf": 1.5}


def corners(box: Tensor) -> list[Tensor]:
    cx, cy, w, h = box[0], box[1], box[2].clamp(min=0), box[3].clamp(min=0)
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of two cxcywh boxes."""
    a, b = corners(a), corners(b)
    width = (min(a[2], b[2]) - max(a[0], b[0])).clamp(min=0)
    height = (min(a[3], b[3]) - max(a[1], b[1])).clamp(min=0)
    both = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both / union, both / union - (hull - union) / hull


def match(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor) -> list[tuple[int, int]]:
    cost = torch.zeros(len(boxes), len(truth), dtype=torch.float64)
    for q in range(len(boxes)):
        for t in range(len(truth)):
            p = logits[q, labels[t]].sigmoid()
            focal = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
            l1 = (boxes[q] - truth[t]).abs().sum()
            cost[q, t] = 2 * focal + 5 * l1 - 2 * overlap(boxes[q], truth[t])[1]
    return list(zip(*(side.tolist() for side in linear_sum_assignment(cost.numpy()))))


def unite(matches: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Votes of all sets for one image's pairs; most votes first, one pair per query."""
    votes = Counter(pair for pairs in matches for pair in pairs)
    kept: dict[int, int] = {}
    for q, t in sorted(votes, key=lambda pair: (-votes[pair], *pair)):
        kept.setdefault(q, t)
    return list(kept.items())


def bin_offsets(n: int, a: float, s: float) -> list[float]:
    step = (a * s + 1) ** (2 / (n - 2))
    inner = [step**k - 1 for k in range(1, n // 2)]
    return [-2 * a * s, *(-v for v in reversed(inner)), 0.0, *inner, 2 * a * s]


def class_loss(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor, pairs: list) -> Tensor:
    """VFL of one image, not normalised."""
    total = torch.zeros((), dtype=torch.float64)
    matched = dict(pairs)
    for q in range(len(boxes)):
        for c in range(logits.shape[1]):
            p = logits[q, c].sigmoid()
            if q in matched and labels[matched[q]] == c:
                target = overlap(boxes[q], truth[matched[q]])[0].detach()
                weight = target
            else:
                target, weight = torch.zeros((), dtype=torch.float64), 0.75 * p.detach() ** 2
            total = total - weight * (target * p.log() + (1 - target) * (1 - p).log())
    return total


def edge_cross_entropy(base: Tensor, truth: Tensor, edges: Tensor, offsets: list[float], s: float) -> Tensor:
    """FGL of one pair before the overlap's factor."""
    x1, y1, x2, y2 = corners(truth)
    cx, cy, w, h = base
    distances = [(cx - x1) / w, (cy - y1) / h, (x2 - cx) / w, (y2 - cy) / h]
    total = torch.zeros((), dtype=torch.float64)
    for distance, z in zip(distances, edges):
        value = float(distance) * s - s / 2
        log_p = z.log_softmax(0)
        if value < offsets[0]:
            total = total - log_p[0]
        elif value >= offsets[-1]:
            total = total - log_p[-1]
        else:
            i = sum(offset <= value for offset in offsets) - 1
            right = (value - offsets[i]) / (offsets[i + 1] - offsets[i])
            total = total - (1 - right) * log_p[i] - right * log_p[i + 1]
    return total


def distillation(student: list, teacher: list, pairs: list, truths: list, shares: tuple | None) -> tuple:
    """DDF of one layer over all images, and the square roots of its counts."""
    matched, unmatched = [], []
    for (boxes, edges), (logits, teacher_edges), of_image, truth in zip(student, teacher, pairs, truths):
        for q in range(len(boxes)):
            owner = dict(of_image).get(q)
            weight = logits[q].sigmoid().max() if owner is None else overlap(boxes[q], truth[owner])[0]
            for e in range(4):
                target = (teacher_edges[q, e].detach() / 5).softmax(0)
                ratio = target.log() - (edges[q, e] / 5).log_softmax(0)
                row = weight.detach() * 25 * (target * ratio).sum()
                (unmatched if owner is None else matched).append(row)
    own = math.sqrt(len(matched)), math.sqrt(len(unmatched))
    a, b = own if shares is None else shares
    means = [sum(rows) / len(rows) if rows else 0.0 for rows in (matched, unmatched)]
    return (means[0] * a + means[1] * b) / (a + b), own


class Objective:
    """All named losses of one step."""

    def __init__(self, output: DetectorOutput, targets: list[dict[str, Tensor]], reg_max: int) -> None:
        self.labels = [target["labels"] for target in targets]
        self.truths = [target["boxes"].double() for target in targets]
        self.s = float(output.reg_scale)
        self.offsets = bin_offsets(reg_max, float(output.up), self.s)
        self.losses: dict[str, Tensor] = {}
        self.num_boxes = max(1, sum(map(len, self.labels)))
        last = len(output.layers) - 1
        sets = [("" if i == last else f"_aux_{i}", layer) for i, layer in enumerate(output.layers)]
        sets += [("_pre", output.initial), ("_enc_0", output.proposals)]
        own = {name: self.match_images(predictions) for name, predictions in sets}
        self.union = [unite([pairs[b] for pairs in own.values()]) for b in range(len(targets))]
        num_go = max(1, sum(map(len, self.union)))
        for name, predictions in sets:
            self.score(name, predictions, own[name], self.num_boxes, self.union, num_go)
        for name, predictions in sets[:last]:
            self.shares = self.distil(name, predictions, output.layers[-1], self.union, None)
        for group in output.groups.values():
            self.score_group(group)

    def score_group(self, group) -> None:
        pairs = [[(q, t) for q, t in enumerate(row.tolist()) if t >= 0] for row in group.group.assigned]
        norm = max(1, self.num_boxes * group.group.repeats)
        for i, layer in enumerate(group.layers):
            self.score(f"_dn_{i}", layer, pairs, norm, pairs, norm)
            self.distil(f"_dn_{i}", layer, group.layers[-1], pairs, self.shares)
        self.score("_dn_pre", group.initial, pairs, norm, pairs, norm)

    def labels_for(self, predictions: Predictions, b: int) -> Tensor:
        return self.labels[b] if predictions.logits.shape[-1] > 1 else torch.zeros_like(self.labels[b])

    def match_images(self, predictions: Predictions) -> list[list[tuple[int, int]]]:
        return [
            match(
                predictions.logits[b].detach().double(),
                predictions.boxes[b].detach().double(),
                self.labels_for(predictions, b),
                truth,
            )
            for b, truth in enumerate(self.truths)
        ]

    def score(self, name: str, predictions: Predictions, own: list, norm: int, agreed: list, norm_go: int) -> None:
        sums = dict.fromkeys(("vfl", "bbox", "giou", "fgl"), torch.zeros((), dtype=torch.float64))
        for b, truth in enumerate(self.truths):
            logits, boxes = predictions.logits[b].double(), predictions.boxes[b].double()
            sums["vfl"] = sums["vfl"] + class_loss(logits, boxes, self.labels_for(predictions, b), truth, own[b])
            for q, t in agreed[b]:
                iou, giou = overlap(boxes[q], truth[t])
                sums["bbox"] = sums["bbox"] + (boxes[q] - truth[t]).abs().sum()
                sums["giou"] = sums["giou"] + 1 - giou
                if predictions.edge_logits is not None:
                    edges, base = (
                        predictions.edge_logits[b, q].double().view(4, -1),
                        predictions.initial_boxes[b, q].double(),
                    )
                    entropy = edge_cross_entropy(base, truth[t], edges, self.offsets, self.s)
                    sums["fgl"] = sums["fgl"] + iou.detach() * entropy
        if predictions.edge_logits is None:
            del sums["fgl"]
        for term, value in sums.items():
            self.losses[f"loss_{term}{name}"] = WEIGHTS[term] * value / (norm if term == "vfl" else norm_go)

    def distil(
        self, name: str, predictions: Predictions, deepest: Predictions, pairs: list, shares: tuple | None
    ) -> tuple:
        rows = [
            [(x[b].double(), e[b].double().unflatten(-1, (4, -1))) for b in range(len(self.truths))]
            for x, e in ((predictions.boxes, predictions.edge_logits), (deepest.logits, deepest.edge_logits))
        ]
        value, own = distillation(*rows, pairs, self.truths, shares)
        self.losses[f"loss_ddf{name}"] = WEIGHTS["ddf"] * value
        return own
