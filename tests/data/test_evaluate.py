# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import io
import json
import logging
import weakref

import numpy as np
import pytest
import torch

from data import coco_files
from isdfine.core import dist
from isdfine.core.errors import ConfigError, DataError, NonFiniteError
from isdfine.data import evaluate as module
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.evaluate import CocoEvaluator, shown
from isdfine.nn.types import BatchDetections

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def crowded_file(seed=0, images=12):
    """Images 480 x 640 with boxes of all sizes, crowds, gaps in the ids, one class and one image without boxes."""
    random = np.random.default_rng(seed)
    data = {
        "images": [
            {"id": 10 + 3 * index, "file_name": f"{index}.png", "height": 480, "width": 640} for index in range(images)
        ],
        "categories": [{"id": number, "name": f"c{number}"} for number in (5, 1, 20, 90)],
        "annotations": [],
    }
    for entry in data["images"][1:]:
        for _ in range(random.integers(1, 30)):
            width, height = np.exp(random.uniform(np.log(8), np.log(300), 2))
            x, y = random.uniform(-5, 640 - width), random.uniform(-5, 480 - height)
            data["annotations"].append(
                coco_files.annotation(
                    len(data["annotations"]) + 1,
                    entry["id"],
                    int(random.choice([1, 5, 20])),
                    [x, y, width, height],
                    area=width * height * random.uniform(0.3, 1),
                    iscrowd=int(random.random() < 0.1),
                )
            )
    return data


def random_detections(dataset, image_ids, count=150, seed=1):
    """Jittered copies of the truth among random boxes; scores with ties."""
    random = np.random.default_rng(seed)
    labels, boxes = [], []
    for image_id in image_ids:
        truth = dataset.ground_truth(image_id)
        picks = random.integers(0, max(1, len(truth.labels)), count)
        corners = np.concatenate([truth.boxes.numpy(), np.zeros((1, 4))])[picks] + random.normal(0, 6, (count, 4))
        noise = random.random(count) < 0.4
        corners[noise] = random.uniform(0, 400, (int(noise.sum()), 4))
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
        boxes.append(corners)
        labels.append(np.concatenate([truth.labels.numpy(), [0]])[picks])
    scores = np.round(random.random((len(image_ids), count)), 2)
    return BatchDetections(
        torch.from_numpy(np.stack(labels)), torch.from_numpy(np.stack(boxes)).float(), torch.from_numpy(scores).float()
    )


def targets_of(image_ids):
    return [{"image_id": torch.tensor([number])} for number in image_ids]


def open_file(tmp_path, data):
    for entry in data["images"]:
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / entry["file_name"]).touch()
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    return CocoDetection(str(tmp_path / "images"), str(path))


def reference_stats(path, dataset, image_ids, detections, max_dets):
    """pycocotools on the file itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = []
    for index, image_id in enumerate(image_ids):
        for label, box, score in zip(*(column[index].double().tolist() for column in detections)):
            x1, y1, x2, y2 = box
            category = dataset.label_space.category_ids[int(label)]
            rows.append(
                {"image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluator = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluator.params.maxDets = list(max_dets)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


@pytest.mark.parametrize("seed", [0, 1])
def test_same_numbers_as_pycocotools(tmp_path, seed):
    dataset = open_file(tmp_path, crowded_file(seed))
    ids = dataset.annotations.image_ids.tolist()
    detections = random_detections(dataset, ids, seed=seed)
    evaluator = CocoEvaluator(dataset=dataset)
    for begin in range(0, len(ids), 5):
        part = slice(begin, begin + 5)
        evaluator.update(BatchDetections(*(column[part] for column in detections)), targets_of(ids[part]))
    result = evaluator.summarize()
    reference = reference_stats(tmp_path / "annotations.json", dataset, ids, detections, (1, 10, 100))
    assert list(result.stats) == NAMES
    assert list(result.stats.values()) == pytest.approx(reference.stats.tolist(), abs=1e-12)
    assert 0.02 < result.stats["AP"] < 0.98
    assert min(result.stats.values()) >= 0


def test_more_detections_than_a_hundred_count_when_asked_for(tmp_path):
    dataset = open_file(tmp_path, crowded_file())
    ids = dataset.annotations.image_ids.tolist()
    detections = random_detections(dataset, ids, count=300)
    detections.labels.zero_()
    evaluator = CocoEvaluator(max_dets=[1, 10, 300], dataset=dataset)
    evaluator.update(detections, targets_of(ids))
    result = evaluator.summarize()
    evaluator.max_dets = [1, 10, 100]
    fewer = evaluator.summarize()
    assert list(result.stats)[6:9] == ["AR1", "AR10", "AR300"]
    assert result.stats["AR300"] > fewer.stats["AR100"]
    reference = reference_stats(tmp_path / "annotations.json", dataset, ids, detections, (1, 10, 300))
    precision = reference.eval["precision"][:, :, :, 0, -1]
    assert result.stats["AP"] == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
    assert list(result.stats.values())[1:] == pytest.approx(reference.stats[1:].tolist(), abs=1e-12)


def test_perfect_detections(tmp_path):
    root, path = coco_files.write(tmp_path)
    dataset = CocoDetection(str(root), str(path))
    evaluator = CocoEvaluator(dataset=dataset)
    for image_id in (7, 3):
        truth = dataset.annotations
        rows = truth.rows(truth.image_ids.tolist().index(image_id))
        boxes = torch.from_numpy(truth.boxes_xywh_px[rows][~truth.crowd[rows]]).float()
        corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
        labels = torch.from_numpy(truth.labels[rows][~truth.crowd[rows]])
        evaluator.update(
            BatchDetections(labels[None], corners[None], torch.ones(1, len(labels), dtype=torch.bfloat16)),
            targets_of([image_id]),
        )
    result = evaluator.summarize()
    assert result.stats["AP"] == pytest.approx(1.0)
    assert result.stats["APl"] == -1
    assert [(row.name, row.num_boxes) for row in result.per_class] == [("ant", 1), ("zebra", 2)]


def test_no_detections_and_classes_without_boxes(tmp_path):
    dataset = open_file(tmp_path, crowded_file())
    ids = dataset.annotations.image_ids.tolist()
    evaluator = CocoEvaluator(dataset=dataset)
    nothing = BatchDetections(
        torch.zeros(len(ids), 0, dtype=torch.int64), torch.zeros(len(ids), 0, 4), torch.zeros(len(ids), 0)
    )
    evaluator.update(nothing, targets_of(ids))
    result = evaluator.summarize()
    assert result.stats["AP"] == 0
    assert result.per_class[-1].ap == -1
    lines = result.table().splitlines()
    assert next(line for line in lines if line.startswith("c90")).split() == ["c90", "-", "-", "0"]
    assert any(line.startswith("all") and " 0.0 " in line for line in lines)
    assert json.loads(json.dumps(result.to_dict()))["per_class"][0]["name"] == "c1"


def test_images_count_once_over_all_ranks(tmp_path, monkeypatch):
    dataset = open_file(tmp_path, crowded_file())
    ids = dataset.annotations.image_ids.tolist()
    detections = random_detections(dataset, ids)
    alone = CocoEvaluator(dataset=dataset)
    alone.update(detections, targets_of(ids))
    expected = alone.summarize()
    parts = []
    for rows in (slice(0, 7), slice(5, 12)):  # images 5 and 6 on both
        evaluator = CocoEvaluator(dataset=dataset)
        evaluator.update(BatchDetections(*(column[rows] for column in detections)), targets_of(ids[rows]))
        monkeypatch.setattr(dist, "gather_objects", lambda seen: [parts.append(seen) or seen])
        evaluator.summarize()
    monkeypatch.setattr(dist, "gather_objects", lambda _: parts)
    assert alone.summarize() == expected


def test_part_of_the_images_is_said(tmp_path, caplog):
    dataset = open_file(tmp_path, crowded_file())
    ids = dataset.annotations.image_ids.tolist()[:4]
    evaluator = CocoEvaluator(dataset=dataset)
    evaluator.update(random_detections(dataset, ids), targets_of(ids))
    with caplog.at_level(logging.WARNING):
        result = evaluator.summarize()
    assert "metrics over 4 of the 12 images" in caplog.text
    assert result.num_images == 4
    evaluator.reset()
    evaluator.update(random_detections(dataset, ids[:1]), targets_of(ids[:1]))
    assert evaluator.summarize().num_images == 1


def test_a_batch_is_read_when_the_next_one_is_queued(tmp_path, monkeypatch):
    dataset = open_file(tmp_path, crowded_file())
    ids = dataset.annotations.image_ids.tolist()
    detections = random_detections(dataset, ids)
    batches, events, most = [], [], 0

    class Watched(module._Arriving):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            events.append(f"queued {len(batches)}")
            self.number = len(batches)
            batches.append(weakref.ref(self))

        def images(self):
            nonlocal most
            most = max(most, sum(batch() is not None for batch in batches))
            events.append(f"read {self.number}")
            return super().images()

    monkeypatch.setattr(module, "_Arriving", Watched)
    evaluator = CocoEvaluator(dataset=dataset)
    for begin in range(0, 12, 4):
        part = slice(begin, begin + 4)
        evaluator.update(BatchDetections(*(column[part] for column in detections)), targets_of(ids[part]))
    in_parts = evaluator.summarize()
    assert events == ["queued 0", "queued 1", "read 0", "queued 2", "read 1", "read 2"]
    assert most == 2
    evaluator.reset()
    evaluator.update(detections, targets_of(ids))
    assert evaluator.summarize() == in_parts
    evaluator.update(detections, targets_of(ids))
    evaluator.reset()
    assert evaluator.summarize().num_images == 0


@pytest.mark.gpu
def test_from_a_gpu_they_come_without_waiting(tmp_path):
    dataset = open_file(tmp_path, crowded_file())
    ids = dataset.annotations.image_ids.tolist()
    detections = random_detections(dataset, ids)
    results = []
    for device in ("cpu", "cuda"):
        evaluator = CocoEvaluator(dataset=dataset)
        for begin in range(0, 12, 3):
            part = slice(begin, begin + 3)
            batch = BatchDetections(*(column[part].to(device) for column in detections))
            targets = [{"image_id": target["image_id"].to(device)} for target in targets_of(ids[part])]
            torch.cuda.set_sync_debug_mode("error")
            try:
                evaluator.update(batch, targets)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        results.append(evaluator.summarize())
    assert results[0] == results[1]


def one_detection(label=0, score=0.5, box=(0.0, 0.0, 9.0, 9.0)):
    return BatchDetections(torch.tensor([[label]]), torch.tensor([[box]]), torch.tensor([[score]]))


def test_mistakes_are_named(tmp_path):
    dataset = open_file(tmp_path, crowded_file())
    evaluator = CocoEvaluator()
    with pytest.raises(ValueError, match="no ground truth: pass dataset"):
        evaluator.summarize()
    evaluator.dataset = dataset
    evaluator.update(one_detection(), targets_of([99]))
    with pytest.raises(DataError, match="no image has the id 99, but there are detections for it"):
        evaluator.summarize()
    evaluator.reset()
    evaluator.update(one_detection(label=4), targets_of([10]))
    with pytest.raises(DataError, match=r"image 10 have labels 4..4, but .* has 4 classes: 1=c1, 5=c5, 20=c20, 90=c90"):
        evaluator.summarize()
    for broken in (one_detection(score=float("nan")), one_detection(box=(0.0, 0.0, float("inf"), 9.0))):
        evaluator.reset()
        evaluator.update(broken, targets_of([10]))
        with pytest.raises(NonFiniteError, match="detections of image 10 are not finite: the weights have diverged"):
            evaluator.summarize()


@pytest.mark.parametrize("types", [["segm"], [], ["bbox", "segm"]])
def test_other_metrics_are_refused(types):
    with pytest.raises(ConfigError, match=r"iou_types is .*: only \[bbox\] is supported"):
        CocoEvaluator(iou_types=types)


@pytest.mark.parametrize("counts", [[], [0, 10], [10, 1], [5, 5]])
def test_detection_counts_ascend(counts):
    with pytest.raises(ConfigError, match=r"max_dets is .*: give ascending counts above 0"):
        CocoEvaluator(max_dets=counts)


def test_scores_are_shown_as_tables_in_papers_do():
    assert [shown(value) for value in (0.052, 0.5671, 1.0, 0.0, -1)] == ["5.2", "56.7", "100.0", "0.0", "-"]
