# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Against pycocotools, on boxes that make every rule of the matching matter."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from isdfine.data import coco_metrics as module
from isdfine.data.coco_metrics import AREA_RANGES_PX, IOU_THRESHOLDS, RECALL_POINTS, Detected, Truth, coco_metrics


def scene(seed: int, images: int, objects: int, detections: int, classes: int) -> tuple[Truth, Detected]:
    """Few places and sizes, so that overlaps tie and areas lie on the ends of the ranges; few scores; some crowds."""
    random = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        sides = random.choice([24.0, 32.0, 96.0, 128.0], (count, 2))
        return np.concatenate([8.0 * random.integers(0, 3, (count, 2)), sides], axis=1)

    truth_boxes = boxes(objects)
    areas = truth_boxes[:, 2] * truth_boxes[:, 3] * random.choice([1.0, 0.5], objects)
    truth = Truth(
        random.integers(0, images, objects), random.integers(0, classes, objects), truth_boxes, areas,
        random.random(objects) < 0.2,
    )  # fmt: skip
    scores = random.choice(np.linspace(0.1, 0.9, 7), detections).astype(np.float32)
    return truth, Detected(
        random.integers(0, images, detections), random.integers(0, classes, detections), boxes(detections), scores
    )


def reference(truth: Truth, found: Detected, images: int, classes: int, max_dets: list[int]) -> Any:
    """pycocotools' arrays."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entries(part: Truth | Detected, **more: Any) -> list[dict[str, Any]]:
        rows = zip((part.images + 1).tolist(), (part.labels + 1).tolist(), part.boxes_xywh_px.tolist(), *more.values())
        return [
            {"id": number, "image_id": image, "category_id": category, "bbox": box} | dict(zip(more, rest))
            for number, (image, category, box, *rest) in enumerate(rows, 1)
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": number + 1} for number in range(images)],
            "categories": [{"id": number + 1} for number in range(classes)],
            "annotations": entries(truth, area=truth.area_px.tolist(), iscrowd=truth.crowd.astype(int).tolist()),
        }
        data.createIndex()
        results = COCO()
        sizes = found.boxes_xywh_px[:, 2] * found.boxes_xywh_px[:, 3]
        results.dataset = data.dataset | {
            "annotations": entries(found, score=found.scores.tolist(), area=sizes.tolist(), iscrowd=[0] * len(sizes))
        }
        results.createIndex()
        evaluator = COCOeval(data, results, "bbox")
        evaluator.params.maxDets = max_dets
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval


def check(truth: Truth, found: Detected, images: int, classes: int, max_dets: list[int]) -> module.Metrics:
    ours = coco_metrics(truth, found, classes, max_dets)
    theirs = reference(truth, found, images, classes, max_dets)
    np.testing.assert_allclose(ours.precision, theirs["precision"][..., -1], atol=1e-12, rtol=0)
    np.testing.assert_allclose(ours.recall, theirs["recall"], atol=1e-12, rtol=0)
    return ours


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_dets", [[1, 3, 100], [2], [1, 2, 4, 7]])
def test_every_value_is_that_of_pycocotools(seed: int, max_dets: list[int]) -> None:
    ours = check(*scene(seed, images=6, objects=60, detections=250, classes=3), 6, 3, max_dets)
    assert all(ours.recall[:, :, area].max() > 0 for area in range(4))
    assert len(np.unique(ours.recall)) > 5
    assert len(np.unique(ours.precision)) > 5


@pytest.mark.parametrize(("objects", "detections"), [(0, 0), (0, 20), (20, 0), (1, 1), (3, 50)])
def test_few_or_none(objects: int, detections: int) -> None:
    check(*scene(3, images=3, objects=objects, detections=detections, classes=4), 3, 4, [1, 10, 100])


def test_only_crowds() -> None:
    truth, found = scene(5, images=3, objects=12, detections=60, classes=2)
    truth.crowd[:] = True
    ours = check(truth, found, 3, 2, [100])
    assert ours.precision.max() == module.ABSENT


def test_a_box_without_area_matches_nothing() -> None:
    truth, found = scene(7, images=2, objects=10, detections=30, classes=1)
    found.boxes_xywh_px[::3, 2:] = 0
    found.boxes_xywh_px[1::3, 2] *= -1
    check(truth, found, 2, 1, [100])


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = scene(0, images=6, objects=60, detections=250, classes=3)
    whole = coco_metrics(truth, found, 3, [1, 100])
    for pairs in (1, 7, 1000):
        monkeypatch.setattr(module, "_PAIRS_AT_ONCE", pairs)
        for mine, expected in zip(coco_metrics(truth, found, 3, [1, 100]), whole, strict=True):
            assert np.array_equal(mine, expected)


def test_thresholds_are_cocos() -> None:
    from pycocotools.cocoeval import Params

    theirs = Params("bbox")
    assert np.array_equal(theirs.iouThrs, IOU_THRESHOLDS)
    assert np.array_equal(theirs.recThrs, RECALL_POINTS)
    assert np.array_equal(np.array(theirs.areaRng, float), AREA_RANGES_PX)
