# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Curves by hand, and against faster-coco-eval's precision."""

from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from isdfine.viz.matching import JudgedImage, match_all
from isdfine.viz.operating_points import RECALLS, best_common_threshold, score_curves
from judged_cases import judged, random_images


def coco_precision(images: list[JudgedImage], classes: int, most: int) -> NDArray[np.float64]:
    """(R, K) precision at IoU 0.5 of all sizes, as faster-coco-eval computes it."""

    def entries(boxes: NDArray[np.float64], **columns: Any) -> list[dict[str, Any]]:
        sizes = boxes[:, 2:] - boxes[:, :2]
        rows = zip(boxes.tolist(), sizes.tolist(), *columns.values())
        return [
            {"bbox": [*box[:2], *size], "area": size[0] * size[1], "iscrowd": 0} | dict(zip(columns, rest))
            for box, size, *rest in rows
        ]

    truth, found = [], []
    for number, image in enumerate(images, 1):
        here = [{"image_id": number}]
        truth += [
            row | here[0]
            for row in entries(
                image.truth_xyxy_px,
                category_id=(image.truth_labels + 1).tolist(),
                iscrowd=image.crowd.astype(int).tolist(),
            )
        ]
        found += [
            row | here[0]
            for row in entries(
                image.boxes_xyxy_px, category_id=(image.labels + 1).tolist(), score=image.scores.tolist()
            )
        ]
    base = {
        "images": [{"id": number, "height": 200, "width": 200} for number in range(1, len(images) + 1)],
        "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
    }
    numbered = [[row | {"id": number} for number, row in enumerate(rows, 1)] for rows in (truth, found)]
    evaluator = COCOeval_faster(
        COCO(base | {"annotations": numbered[0]}), COCO(base | {"annotations": numbered[1]}), iouType="bbox",
        print_function=lambda *_: None,
    )  # fmt: skip
    evaluator.params.maxDets = [most]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray(evaluator.eval["precision"]).reshape(evaluator.eval["counts"])
    return precision[0, :, :, 0, -1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most", [100, 3])
def test_precision_is_that_of_the_coco_evaluator(seed: int, most: int) -> None:
    images = random_images(seed, count=25)
    curves = score_curves(images, match_all(images, max_detections=most), ["a", "b", "c"])
    expected = coco_precision(images, 3, most)
    for label, curve in enumerate(curves):
        assert curve.num_objects > 0
        assert curve.interpolated() == pytest.approx(expected[:, label], abs=1e-9)
        assert curve.ap == pytest.approx(expected[:, label].mean())
        assert 0.1 < curve.ap < 0.95


def three_of_four() -> list[JudgedImage]:
    """Class 0: right .9, wrong .8, right .7, and an object that is not found; class 1 has no objects."""
    return [
        judged([(0, 0, 10, 10, 0), (20, 0, 30, 10, 0)], [(0, 0, 10, 10, 0, 0.9), (50, 0, 60, 10, 0, 0.8)]),
        judged([(0, 0, 10, 10, 0)], [(0, 0, 10, 10, 0, 0.7), (0, 0, 10, 10, 1, 0.3)]),
    ]


def test_a_curve_by_hand() -> None:
    images = three_of_four()
    first, second = score_curves(images, match_all(images), ["a", "b"])
    assert first.scores.tolist() == [0.9, 0.8, 0.7]
    assert first.precision == pytest.approx([1, 1 / 2, 2 / 3])
    assert first.recall == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert first.f1 == pytest.approx([0.5, 0.4, 2 / 3])
    expected = np.where(RECALLS <= 1 / 3, 1.0, np.where(RECALLS <= 2 / 3, 2 / 3, 0.0))
    assert first.interpolated() == pytest.approx(expected)
    precision, recall, f1 = first.at(np.array([0.95, 0.9, 0.75, 0.0]))
    assert precision == pytest.approx([1, 1, 0.5, 2 / 3])
    assert recall == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3])
    assert f1 == pytest.approx([0, 0.5, 0.4, 2 / 3])
    best = first.best()
    assert best == pytest.approx((0.35, 2 / 3, 2 / 3, 2 / 3))
    assert (second.ap, second.best(), second.num_objects) == (-1.0, None, 0)


def test_the_best_threshold_keeps_what_it_promises() -> None:
    for seed in range(5):
        images = random_images(seed)
        for curve in score_curves(images, match_all(images), ["a", "b", "c"]):
            best = curve.best()
            assert best is not None
            assert best[1:] == pytest.approx([values[0] for values in curve.at(np.array([best.threshold]))])
            assert best.f1 == pytest.approx(curve.f1.max())


def test_equal_scores_stand_or_fall_together() -> None:
    """F1 would be best between two detections of one score, where no threshold can be."""
    images = [judged([(0, 0, 10, 10, 0)], [(0, 0, 10, 10, 0, 0.5), (50, 50, 60, 60, 0, 0.5)])]
    (curve,) = score_curves(images, match_all(images), ["a"])
    assert curve.f1.tolist() == pytest.approx([1, 2 / 3])
    assert curve.best() == pytest.approx((0.25, 0.5, 1, 2 / 3))


def test_a_threshold_for_all_classes() -> None:
    images = three_of_four()
    curves = score_curves(images, match_all(images), ["a", "b"])
    threshold = best_common_threshold(curves, 0.4)
    assert 0 <= threshold <= 0.7
    assert curves[0].at(np.array([threshold]))[2] == pytest.approx([2 / 3])
    assert best_common_threshold(curves[1:], 0.4) == 0.4
    assert best_common_threshold([], 0.4) == 0.4


def test_no_detections_at_all() -> None:
    images = [judged([(0, 0, 10, 10, 0)], [])]
    (curve,) = score_curves(images, match_all(images), ["a"])
    assert (curve.ap, curve.best()) == (0.0, None)
    assert curve.at(np.array([0.5]))[1].tolist() == [0]
