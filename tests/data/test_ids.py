# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Ids in a file play no part: not in labels, not in weights, not in metrics."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import isdfine
from builders import micro_sections, write_coco
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.evaluate import CocoEvaluator, EvalResult
from isdfine.nn.types import BatchDetections
from isdfine.solver.fit import fit
from isdfine.solver.training import Training

pytestmark = pytest.mark.usefixtures("small_backbone")

NAMES = ["apple", "bee", "cat", "dog"]


def numbering(kind: str, seed: int) -> list[int]:
    """Ids of the classes in the order of ``NAMES``."""
    draw = random.Random(f"{kind} {seed}")
    if kind == "zero-based":
        return [0, 1, 2, 3]
    ids = draw.sample(range(-5 if kind == "negative" else 0, 1000), 4)
    return ids if kind == "permuted" else sorted(ids)


def renumbered(source: Path, folder: Path, ids: list[int], seed: int) -> Path:
    """A copy with other category ids, image ids and annotation ids and the categories in any order.

    Images and annotations keep their order, which is the order of samples and targets.
    """
    content = json.loads(source.read_text())
    new = {entry["id"]: ids[NAMES.index(entry["name"])] for entry in content["categories"]}
    for entry in content["categories"]:
        entry["id"] = new[entry["id"]]
    for entry in content["annotations"]:
        entry["category_id"] = new[entry["category_id"]]
    draw = random.Random(seed)
    draw.shuffle(content["categories"])
    images = dict(zip((entry["id"] for entry in content["images"]), draw.sample(range(500), len(content["images"]))))
    for entry in content["images"]:
        entry["id"] = images[entry["id"]]
    for entry, number in zip(content["annotations"], draw.sample(range(500), len(content["annotations"]))):
        entry["image_id"], entry["id"] = images[entry["image_id"]], number
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def sections(original: Path, path: Path, output: Path, classes: list[str] | None) -> dict[str, Any]:
    """A micro run of one epoch on a renumbered file."""
    found = micro_sections(original, output)
    found |= {"epoches": 1, "num_visualized": 0}
    for loader in ("train_dataloader", "val_dataloader"):
        found[loader]["dataset"] |= {"ann_file": str(path), "classes": classes}
    return found


def train(folder: Path, content: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights and metrics after 3 steps."""
    config = folder / "micro.yml"
    config.write_text(yaml.safe_dump(content))
    run = Training(isdfine.load_config(config))
    result = fit(run)
    assert run.progress.step == 3
    assert isinstance(result, EvalResult)
    return {name: value.clone() for name, value in run.model.state_dict().items()}, result.stats


def disturbed(dataset: CocoDetection) -> dict[str, float]:
    """Metrics of detections near the truth, some of them of another class, one of a class that nothing has."""
    noise = torch.Generator().manual_seed(0)
    names = dataset.label_space.names
    place = torch.tensor([names.index(name) for name in NAMES])
    evaluator = CocoEvaluator(dataset=dataset)
    for _, target in (dataset[index] for index in range(len(dataset))):
        count = len(target["labels"])
        boxes = target["boxes"].as_subclass(Tensor) + 3 * torch.randn(count, 4, generator=noise)
        wrong = torch.rand(count, generator=noise) < 0.3
        classes = (target["labels"][:, None] == place).nonzero()[:, 1]
        labels = place[torch.where(wrong, (classes + 1) % 4, classes)]
        scores = torch.rand(count, generator=noise)
        if "(unused 0)" in names:
            boxes, scores = torch.cat([boxes, boxes]), torch.cat([scores, torch.ones(count)])
            labels = torch.cat([labels, torch.zeros_like(labels)])
        evaluator.update(BatchDetections(labels[None], boxes[None], scores[None]), [target])
    return evaluator.summarize().stats


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images of 4 classes with ids 1..4."""
    return write_coco(tmp_path_factory.mktemp("ids"), images=12, categories=list(enumerate(NAMES, 1)))


@pytest.fixture(scope="module")
def expected(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the original numbering gives."""
    folder = tmp_path_factory.mktemp("expected")
    return train(folder, sections(original, original, folder / "run", None))


CASES = [
    (kind, seed)
    for kind, seeds in {"zero-based": 1, "holey": 6, "negative": 2, "permuted": 8}.items()
    for seed in range(seeds)
]


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_any_numbering_gives_the_same_labels_and_metrics(original, tmp_path, kind, seed):
    ids = numbering(kind, seed)
    path = renumbered(original, tmp_path, ids, seed)
    images = str(original.parent / "images")
    first = CocoDetection(images, str(original))
    # Ids in the order of the names need nothing; others need the order of the labels to be said.
    other = CocoDetection(images, str(path), classes=NAMES if kind == "permuted" else None)
    assert other.label_space.names == tuple(NAMES)
    assert other.label_space.category_ids == tuple(ids)
    assert other.annotations.labels.tolist() == first.annotations.labels.tolist()
    stats = disturbed(first)
    assert 0.05 < stats["AP"] < 0.95
    assert disturbed(other) == stats


def test_permuted_ids_permute_the_labels_and_keep_the_metrics(original, tmp_path):
    ids = [30, 10, 40, 20]
    images = str(original.parent / "images")
    first = CocoDetection(images, str(original))
    other = CocoDetection(images, str(renumbered(original, tmp_path, ids, 0)))
    assert other.label_space.names == ("bee", "dog", "apple", "cat")
    place = torch.tensor([other.label_space.names.index(name) for name in NAMES])
    assert place[torch.from_numpy(first.annotations.labels)].tolist() == other.annotations.labels.tolist()
    assert disturbed(other)["AP"] == pytest.approx(disturbed(first)["AP"], abs=1e-12)  # a mean in another order


def test_ids_as_labels_keep_the_metrics(original, tmp_path):
    images, path = str(original.parent / "images"), renumbered(original, tmp_path, [2, 5, 6, 9], 0)
    other = CocoDetection(images, str(path), num_classes=10)
    assert len(other.label_space) == 10
    assert disturbed(other) == disturbed(CocoDetection(images, str(original)))


@pytest.mark.parametrize(("kind", "seed"), [("zero-based", 0), ("holey", 1), ("permuted", 2)])
def test_any_numbering_trains_to_the_same_weights(original, expected, tmp_path, kind, seed):
    path = renumbered(original, tmp_path, numbering(kind, seed), seed)
    classes = NAMES if kind == "permuted" else None
    weights, stats = train(tmp_path, sections(original, path, tmp_path / "run", classes))
    assert weights.keys() == expected[0].keys()
    assert not [name for name, value in weights.items() if not torch.equal(value, expected[0][name])]
    assert stats == expected[1]


@pytest.mark.slow
def test_the_weights_do_depend_on_the_labels(original, expected, tmp_path):
    path = renumbered(original, tmp_path, [3, 1, 4, 2], 0)
    weights, _ = train(tmp_path, sections(original, path, tmp_path / "run", None))
    assert any(not torch.equal(value, expected[0][name]) for name, value in weights.items())
