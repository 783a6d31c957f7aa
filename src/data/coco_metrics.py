# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO's precision and recall from flat arrays, with the results of pycocotools' ``COCOeval`` for boxes.

Every image, class, area range and IoU threshold is a matching of its own there, in Python loops. Here all of them go on
together: the first detection of every image and class, then the second, and so on. Only pairs that overlap by the
lowest threshold take part, which leaves out most detections. tools/benchmark/evaluation.py compares the times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import Flags, Floats, Ints

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALL_POINTS: Floats = np.linspace(0.0, 1.0, 101)
AREA_RANGES_PX: Floats = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
"""All, small, medium, large, both ends belonging to the range."""
ABSENT = -1.0
"""Value of a metric that has no ground truth to be measured on."""
_PAIRS_AT_ONCE = 2_000_000
_HALF_OPEN = 1 - 1e-10
"""What a threshold is at most, so that IoU 1 passes 1."""


class Truth(NamedTuple):
    """G annotated boxes."""

    images: Ints
    """(G,) index of the image."""
    labels: Ints
    """(G,) contiguous class."""
    boxes_xywh_px: Floats
    """(G, 4)."""
    area_px: Floats
    """(G,) of the object."""
    crowd: Flags
    """(G,) a region of many objects: detections inside count neither way."""


class Detected(NamedTuple):
    """D detections."""

    images: Ints
    """(D,) index of the image, by the same numbers; ties of scores go to the lower one."""
    labels: Ints
    """(D,) contiguous class."""
    boxes_xywh_px: Floats
    """(D, 4)."""
    scores: NDArray[np.floating[Any]]
    """(D,)."""


class Metrics(NamedTuple):
    """T thresholds, R recall points, K classes, A area ranges, M numbers of detections; -1 without ground truth."""

    precision: Floats
    """(T, R, K, A) with the largest number of detections."""
    recall: Floats
    """(T, K, A, M)."""


class _Outcome(NamedTuple):
    """What became of each of D detections, by area range and threshold, both (D, A, T)."""

    hit: Flags
    """Matched with an object that counts."""
    ignored: Flags
    """Counts neither as hit nor as mistake."""


def coco_metrics(truth: Truth, detected: Detected, num_classes: int, max_dets: Sequence[int]) -> Metrics:
    """Precision over recall, and recall, of all classes.

    Args:
        truth: annotated boxes.
        detected: detections of the same images, in any order.
        num_classes: K; labels lie below it.
        max_dets: M ascending numbers of detections an image and class.

    Returns:
        As ``COCOeval.accumulate``, up to rounding.
    """
    order = np.lexsort((truth.images, truth.labels))  # stable: boxes of a group keep the order of the file
    truth = Truth(*_rows(truth, order))
    order = np.lexsort((-detected.scores, detected.images, detected.labels))
    detected = Detected(*_rows(detected, order))
    rank = _rank_in_group(detected.labels, detected.images)
    kept = np.flatnonzero(rank < max_dets[-1])
    detected, rank = Detected(*_rows(detected, kept)), rank[kept]
    outcome = _match(truth, detected)
    counted = ~_outside(truth.area_px) & ~truth.crowd[:, None]  # (G, A)
    thresholds, areas = len(IOU_THRESHOLDS), len(AREA_RANGES_PX)
    precision = np.full((thresholds, len(RECALL_POINTS), num_classes, areas), ABSENT)
    recall = np.full((thresholds, num_classes, areas, len(max_dets)), ABSENT)
    classes = np.arange(num_classes)
    first, last = (np.searchsorted(detected.labels, classes, side) for side in ("left", "right"))
    for label in classes:
        rows = slice(first[label], last[label])
        objects = counted[truth.labels == label].sum(axis=0)  # (A,)
        order = np.argsort(-detected.scores[rows], kind="stable")
        hit, ignored, place = outcome.hit[rows][order], outcome.ignored[rows][order], rank[rows][order]
        for area in np.flatnonzero(objects):
            for index, most in enumerate(max_dets):
                recall[:, label, area, index] = hit[place < most, area].sum(axis=0) / objects[area]
            precision[:, :, label, area] = _precision(hit[:, area], ignored[:, area], int(objects[area]))
    return Metrics(precision, recall)


def _rows(columns: Iterable[Any], rows: Ints) -> Iterator[Any]:
    return (column[rows] for column in columns)


def _rank_in_group(*keys: Ints) -> Ints:
    """Place of every row among the rows with its keys, which stand together."""
    starts = _starts(*keys)
    return np.arange(len(keys[0])) - np.repeat(starts, np.diff(starts, append=len(keys[0])))


def _starts(*keys: Ints) -> Ints:
    """Where rows begin whose keys are not those of the row before."""
    if not len(keys[0]):
        return np.zeros(0, np.int64)
    changes = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def _outside(area_px: Floats) -> Flags:
    """(N,) -> (N, A) whether an area lies outside each range."""
    low, high = AREA_RANGES_PX.T
    outside: Flags = (area_px[:, None] < low) | (area_px[:, None] > high)
    return outside


def _match(truth: Truth, detected: Detected) -> _Outcome:
    """Each detection, in the order of scores, takes the free object of its class that it overlaps most.

    Objects that do not count (crowds, and those outside the area range) are taken only where no other one is left;
    crowds may be taken any number of times.
    """
    shape = (len(detected.labels), len(AREA_RANGES_PX), len(IOU_THRESHOLDS))
    hit = np.zeros(shape, np.bool_)
    ignored = np.repeat(_outside(detected.boxes_xywh_px[:, 2] * detected.boxes_xywh_px[:, 3])[:, :, None], shape[2], 2)
    neutral = _outside(truth.area_px) | truth.crowd[:, None]  # (G, A)
    taken = np.zeros((len(truth.labels), *shape[1:]), np.bool_)
    for turn in _turns(truth, detected):
        free = turn.iou[:, None, None] >= np.minimum(IOU_THRESHOLDS, _HALF_OPEN)
        free = free & (truth.crowd[turn.objects][:, None, None] | ~taken[turn.objects])  # (P, A, T)
        # Pairs of a detection ascend by overlap: the last free one that counts wins, else the last free one.
        value = (turn.place + 1)[:, None] + np.where(neutral[turn.objects], 0, turn.place.max() + 1)  # (P, A)
        best = np.maximum.reduceat(np.where(free, value[:, :, None], 0), turn.starts)  # (N, A, T); 0 = no free one
        number, area, threshold = np.nonzero(best)
        pair = turn.starts[number] + (best[number, area, threshold] - 1) % (turn.place.max() + 1)
        winner, row = turn.objects[pair], turn.detections[number]
        taken[winner, area, threshold] = True
        counts = ~neutral[winner, area]
        hit[row, area, threshold] = counts
        ignored[row, area, threshold] = ~counts
    return _Outcome(hit, ignored)


class _Turn(NamedTuple):
    """At most one detection of every group, N in all, with the P objects that they overlap enough."""

    detections: Ints
    """(N,) rows."""
    starts: Ints
    """(N,) where the pairs of each detection begin."""
    objects: Ints
    """(P,) rows of the truth, by detection and ascending overlap, ties in the order of the file."""
    iou: Floats
    """(P,)."""
    place: Ints
    """(P,) number of the pair among those of its detection."""


def _turns(truth: Truth, detected: Detected) -> Iterator[_Turn]:
    rows, objects, iou = _overlapping(truth, detected)
    order = np.lexsort((objects, iou, rows))
    rows, objects, iou = rows[order], objects[order], iou[order]
    place = _rank_in_group(rows)
    members = rows[place == 0]  # detections that overlap anything, by group and score
    turn_of_member = _rank_in_group(detected.labels[members], detected.images[members])
    turn = np.repeat(turn_of_member, np.diff(_starts(rows), append=len(rows)))
    order = np.argsort(turn, kind="stable")
    ends = np.cumsum(np.bincount(turn)) if len(turn) else np.zeros(0, np.int64)
    for chosen in np.split(order, ends[:-1]) if len(ends) else ():
        starts = np.flatnonzero(place[chosen] == 0)
        yield _Turn(rows[chosen][starts], starts, objects[chosen], iou[chosen], place[chosen])


def _overlapping(truth: Truth, detected: Detected) -> tuple[Ints, Ints, Floats]:
    """Pairs of one image and class with at least the lowest IoU: rows of detections, rows of objects, IoU."""
    stride = int(max(truth.images.max(initial=0), detected.images.max(initial=0))) + 1
    keys = truth.labels * stride + truth.images
    wanted = detected.labels * stride + detected.images
    first, last = (np.searchsorted(keys, wanted, side) for side in ("left", "right"))
    counts = last - first  # objects that each detection could be
    pairs = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for rows in _chunks(counts):
        number = np.repeat(rows, counts[rows])
        within = np.arange(len(number)) - np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
        objects = first[number] + within
        iou = _iou(detected.boxes_xywh_px[number], truth.boxes_xywh_px[objects], truth.crowd[objects])
        close = iou >= IOU_THRESHOLDS[0]
        pairs.append((number[close], objects[close], iou[close]))
    rows, objects, iou = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return rows, objects, iou


def _chunks(counts: Ints) -> Iterator[Ints]:
    """Detections that have objects to be compared with, in portions of bounded memory."""
    rows = np.flatnonzero(counts)
    portion = (np.cumsum(counts[rows]) - counts[rows]) // _PAIRS_AT_ONCE
    yield from (part for part in np.split(rows, np.flatnonzero(np.diff(portion)) + 1) if len(part))


def _iou(boxes: Floats, objects: Floats, crowd: Flags) -> Floats:
    """(P, 4) xywh each -> (P,); of a crowd, the share of the box that lies inside."""
    x, y, w, h = boxes.T
    ox, oy, ow, oh = objects.T
    width = np.minimum(x + w, ox + ow) - np.maximum(x, ox)
    height = np.minimum(y + h, oy + oh) - np.maximum(y, oy)
    inner = np.where((width > 0) & (height > 0), width * height, 0.0)
    area = w * h
    union = np.where(crowd, area, area + ow * oh - inner)
    iou: Floats = np.divide(inner, union, out=np.zeros_like(inner), where=inner > 0)
    return iou


def _precision(hit: Flags, ignored: Flags, objects: int) -> Floats:
    """(D, T) each, by descending score -> (T, R): best precision at a recall of at least each point; 0 beyond reach.

    Both change upwards at hits only, so hits are all that has to be looked at.
    """
    seen = np.cumsum(~ignored, axis=0, dtype=np.int64)  # hits and mistakes up to each detection
    best = np.zeros((hit.shape[1], len(RECALL_POINTS)))
    for index in range(hit.shape[1]):
        number = np.flatnonzero(hit[:, index])
        hits = np.arange(1, len(number) + 1)
        precision = hits / (seen[number, index] + np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        point = np.searchsorted(hits / objects, RECALL_POINTS, side="left")
        reached = point < len(number)
        best[index, reached] = envelope[point[reached]]
    return best
