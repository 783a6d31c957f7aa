# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""D-FINE's objective in the published order of work (docs/method.md 6): what ours is timed against.

One prediction set after the other; costs of all queries against the targets of the whole batch; the overlaps of
matched pairs as the diagonal of the full matrix; indices on the host; boolean masks; every loss read for the log. It
shares no function with ours, so that it can disagree. Tools load this file by its path.
"""

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from isdfine.nn.types import DetectorOutput, GroupOutput, Predictions

WEIGHTS = {"vfl": 1.0, "bbox": 5.0, "giou": 2.0, "fgl": 0.15, "ddf": 1.5}
Matches = list[tuple[Tensor, Tensor]]
"""Per image: queries and targets."""


def corners_of(boxes: Tensor) -> Tensor:
    cx, cy, w, h = boxes.unbind(-1)
    w, h = w.clamp(min=0), h.clamp(min=0)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)


def area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def all_ious(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union of every box with every box."""
    size = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])
    both = size.clamp(min=0).prod(-1)
    union = area(a)[:, None] + area(b) - both
    return both / union, union


def all_gious(a: Tensor, b: Tensor) -> Tensor:
    assert (a[:, 2:] >= a[:, :2]).all()
    assert (b[:, 2:] >= b[:, :2]).all()
    iou, union = all_ious(a, b)
    hull = (torch.maximum(a[:, None, 2:], b[:, 2:]) - torch.minimum(a[:, None, :2], b[:, :2])).prod(-1)
    return iou - (hull - union) / hull


class PublishedObjective:
    """Callable like ours: output and targets -> named weighted losses."""

    def __init__(self, num_classes: int, reg_max: int, temperature: float = 5.0) -> None:
        self.num_classes, self.reg_max, self.temperature = num_classes, reg_max, temperature

    def __call__(self, output: DetectorOutput, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.targets = targets
        self.offsets = self.bin_offsets(output)
        self.scale = output.reg_scale.abs()
        self.edges: dict[str, Any] = {}
        losses: dict[str, Tensor] = {}
        last = len(output.layers) - 1
        sets = [("" if i == last else f"_aux_{i}", layer) for i, layer in enumerate(output.layers)]
        sets += [("_pre", output.initial), ("_enc_0", output.proposals)]
        own = {name: self.match(predictions) for name, predictions in sets}
        union = self.unite(list(own.values()))
        count = torch.as_tensor([sum(len(target["labels"]) for target in targets)], dtype=torch.float)
        num_boxes = count.clamp(min=1).item()
        num_go = torch.as_tensor([sum(len(q) for q, _ in union)], dtype=torch.float).clamp(min=1).item()
        for name, predictions in sets:
            losses |= self.class_loss(name, predictions, own[name], num_boxes) | self.box_losses(
                name, predictions, union, num_go
            )
            if predictions.edge_logits is not None:
                losses |= self.local_losses(name, predictions, output.layers[-1], union, num_go, "")
        for group in output.groups.values():
            losses |= self.group_losses(group, num_boxes)
        return losses

    def group_losses(self, group: GroupOutput, num_boxes: float) -> dict[str, Tensor]:
        fixed: Matches = []
        for row in group.group.assigned:
            queries = torch.nonzero(row >= 0)[:, 0]
            fixed.append((queries, row[queries]))
        norm = num_boxes * group.group.repeats or 1
        losses: dict[str, Tensor] = {}
        for i, layer in enumerate(group.layers):
            name = f"_dn_{i}"
            losses |= self.class_loss(name, layer, fixed, norm) | self.box_losses(name, layer, fixed, norm)
            losses |= self.local_losses(name, layer, group.layers[-1], fixed, norm, "dn")
        losses |= self.class_loss("_dn_pre", group.initial, fixed, norm)
        return losses | self.box_losses("_dn_pre", group.initial, fixed, norm)

    def labels(self, predictions: Predictions) -> list[Tensor]:
        labels = [target["labels"] for target in self.targets]
        return labels if predictions.logits.shape[-1] > 1 else [torch.zeros_like(label) for label in labels]

    @torch.no_grad()
    def match(self, predictions: Predictions) -> Matches:
        batch, queries = predictions.boxes.shape[:2]
        score = predictions.logits.flatten(0, 1).float().sigmoid()[:, torch.cat(self.labels(predictions))]
        negative = 0.75 * score**2 * -(1 - score + 1e-8).log()
        positive = 0.25 * (1 - score) ** 2 * -(score + 1e-8).log()
        boxes, truth = predictions.boxes.flatten(0, 1), torch.cat([target["boxes"] for target in self.targets])
        overlap = all_gious(corners_of(boxes), corners_of(truth))
        cost = 5 * torch.cdist(boxes, truth, p=1) + 2 * (positive - negative) - 2 * overlap
        cost = torch.nan_to_num(cost.view(batch, queries, -1), nan=1.0).cpu()
        sizes = [len(target["boxes"]) for target in self.targets]
        solved = [linear_sum_assignment(part[b]) for b, part in enumerate(cost.split(sizes, -1))]
        return [(torch.as_tensor(q), torch.as_tensor(t)) for q, t in solved]

    def unite(self, matches: list[Matches]) -> Matches:
        united = []
        for of_image in zip(*matches):
            votes = Counter(pair for q, t in of_image for pair in zip(q.tolist(), t.tolist()))
            kept: dict[int, int] = {}
            for q, t in sorted(votes, key=lambda pair: (-votes[pair], *pair)):
                kept.setdefault(q, t)
            united.append(
                (torch.tensor(list(kept), dtype=torch.long), torch.tensor(list(kept.values()), dtype=torch.long))
            )
        return united

    def picked(self, matches: Matches, name: str) -> Tensor:
        return torch.cat([target[name][t] for target, (_, t) in zip(self.targets, matches)])

    @staticmethod
    def place(matches: Matches) -> tuple[Tensor, Tensor]:
        images = torch.cat([torch.full_like(q, b) for b, (q, _) in enumerate(matches)])
        return images, torch.cat([q for q, _ in matches])

    def matched_iou(self, predictions: Predictions, matches: Matches) -> Tensor:
        boxes = corners_of(predictions.boxes[self.place(matches)])
        return torch.diag(all_ious(boxes, corners_of(self.picked(matches, "boxes")))[0]).detach()

    def class_loss(self, name: str, predictions: Predictions, matches: Matches, norm: float) -> dict[str, Tensor]:
        place, logits, classes = self.place(matches), predictions.logits.float(), predictions.logits.shape[-1]
        quality = self.matched_iou(predictions, matches)
        labels = torch.cat([label[t] for label, (_, t) in zip(self.labels(predictions), matches)])
        target = torch.full(logits.shape[:2], classes, dtype=torch.int64, device=logits.device)
        target[place] = labels
        one_hot = F.one_hot(target, classes + 1)[..., :-1]
        score = torch.zeros(logits.shape[:2], device=logits.device)
        score[place] = quality
        score = score[..., None] * one_hot
        weight = 0.75 * logits.sigmoid().detach() ** 2 * (1 - one_hot) + score
        loss = F.binary_cross_entropy_with_logits(logits, score, weight=weight, reduction="none")
        return {f"loss_vfl{name}": loss.mean(1).sum() * logits.shape[1] / norm * WEIGHTS["vfl"]}

    def box_losses(self, name: str, predictions: Predictions, matches: Matches, norm: float) -> dict[str, Tensor]:
        boxes, truth = predictions.boxes[self.place(matches)], self.picked(matches, "boxes")
        giou = 1 - torch.diag(all_gious(corners_of(boxes), corners_of(truth)))
        l1 = F.l1_loss(boxes, truth, reduction="none").sum() / norm
        return {f"loss_bbox{name}": l1 * WEIGHTS["bbox"], f"loss_giou{name}": giou.sum() / norm * WEIGHTS["giou"]}

    def bin_offsets(self, output: DetectorOutput) -> Tensor:
        a = (output.up * output.reg_scale).abs().float().reshape(())
        step = (a + 1) ** (2 / (self.reg_max - 2))
        right = [step**k - 1 for k in range(1, self.reg_max // 2)]
        return torch.stack([-2 * a, *(-offset for offset in reversed(right)), a * 0, *right, 2 * a])

    def edge_targets(self, predictions: Predictions, matches: Matches) -> tuple[Tensor, Tensor]:
        """Fractional bin and the share of the upper one, edge by edge."""
        cx, cy, w, h = predictions.initial_boxes[self.place(matches)].unbind(-1)
        x1, y1, x2, y2 = corners_of(self.picked(matches, "boxes")).unbind(-1)
        w, h = w / self.scale + 1e-16, h / self.scale + 1e-16
        value = torch.stack(((cx - x1) / w, (cy - y1) / h, (x2 - cx) / w, (y2 - cy) / h), 1).flatten() - self.scale / 2
        index = (self.offsets[:, None] <= value).sum(0) - 1
        share = torch.zeros_like(value)
        inside = (index >= 0) & (index < self.reg_max)
        low, high = self.offsets[index[inside]], self.offsets[index[inside] + 1]
        share[inside] = (value[inside] - low) / (high - low)
        share[index >= self.reg_max] = 1
        return index.clamp(0, self.reg_max - 1), share

    def local_losses(
        self, name: str, predictions: Predictions, deepest: Predictions, matches: Matches, norm: float, kind: str
    ) -> dict[str, Tensor]:
        place, bins = self.place(matches), self.reg_max + 1
        edges, iou = predictions.edge_logits.float(), self.matched_iou(predictions, matches)
        if kind not in self.edges:
            self.edges[kind] = self.edge_targets(predictions, matches)
        index, share = self.edges[kind]
        logits = edges[place].reshape(-1, bins)
        entropy = F.cross_entropy(logits, index, reduction="none") * (1 - share)
        entropy = entropy + F.cross_entropy(logits, index + 1, reduction="none") * share
        losses = {f"loss_fgl{name}": (entropy * iou.repeat_interleave(4)).sum() / norm * WEIGHTS["fgl"]}
        if predictions is not deepest or kind:
            losses[f"loss_ddf{name}"] = self.distil(edges, deepest, place, iou, kind) * WEIGHTS["ddf"]
        return losses

    def distil(self, edges: Tensor, deepest: Predictions, place: Any, iou: Tensor, kind: str) -> Tensor:
        teacher, bins, t = deepest.edge_logits.float().detach(), self.reg_max + 1, self.temperature
        if torch.equal(edges, teacher):
            return edges.sum() * 0
        weight = deepest.logits.float().sigmoid().max(-1)[0].detach()
        mask = torch.zeros_like(weight, dtype=torch.bool)
        mask[place] = True
        weight[place] = iou.to(weight.dtype)
        mask, weight = mask[..., None].expand(-1, -1, 4).flatten(), weight[..., None].expand(-1, -1, 4).flatten()
        student, target = edges.reshape(-1, bins) / t, teacher.reshape(-1, bins) / t
        rows = F.kl_div(student.log_softmax(1), target.softmax(1), reduction="none").sum(-1) * weight * t**2
        if not kind:
            self.shares = (
                (8 / len(iou.new_zeros(edges.shape[0])) * mask.sum()) ** 0.5,
                (8 / edges.shape[0] * (~mask).sum()) ** 0.5,
            )
        matched = rows[mask].mean() if mask.any() else 0
        unmatched = rows[~mask].mean() if (~mask).any() else 0
        a, b = self.shares
        return (matched * a + unmatched * b) / (a + b)


def read_for_log(losses: dict[str, Tensor]) -> dict[str, float]:
    """Every loss by itself, as published at each step."""
    return {name: loss.item() for name, loss in losses.items()}
