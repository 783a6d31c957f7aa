# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from builders import write_coco
from detector_cases import LABELS
from isdfine.bench.accuracy import average_precision, dataset_for
from isdfine.bench.subject import IN_GRAPH, Facts
from isdfine.core.errors import ConfigError, DataError
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.label_space import LabelSpace
from isdfine.deploy.backends.base import Outputs
from isdfine.deploy.preprocess import Recipe

SWAPPED = LabelSpace(("light", "dark"), (7, 3))


class Oracle:
    """Knows the annotations, and says them in the order it is asked, moved by a number of pixels."""

    def __init__(self, data: CocoDetection, labels: LabelSpace | None, batch: int, moved: float = 0.0) -> None:
        self.facts = Facts("oracle", "tests", "fp32", (32, 32), "known", IN_GRAPH, Recipe.squash((32, 32)), labels)
        self.data, self.batch, self.moved, self.next = data, batch, moved, 0

    def place(self, images: NDArray[Any], sizes: NDArray[Any]) -> int:
        assert len(images) == len(sizes) == self.batch, "short batches are filled up"
        return len(images)

    def call(self, placed: int) -> Outputs:
        labels, boxes = np.full((placed, 9), 0), np.zeros((placed, 9, 4), np.float32)
        scores = np.zeros((placed, 9), np.float32)
        for row in range(placed):
            if self.next == len(self.data):
                break
            rows = self.data.annotations.rows(self.next)
            xywh = self.data.annotations.boxes_xywh_px[rows]
            names = [self.data.label_space.names[label] for label in self.data.annotations.labels[rows]]
            labels[row, : len(names)] = [self.facts.labels.names.index(name) for name in names]
            boxes[row, : len(names)] = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1) + self.moved
            scores[row, : len(names)] = 0.9
            self.next += 1
        return Outputs(labels, boxes, scores)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"), categories=((3, "dark"), (7, "light")))


@pytest.mark.parametrize("labels", [LABELS, SWAPPED], ids=["same order", "other order"])
def test_who_knows_the_answers_has_full_ap(labels: LabelSpace, annotations: Path) -> None:
    data = dataset_for(annotations, annotations.parent / "images")
    assert average_precision(Oracle(data, labels, 3), data, 3)["AP"] == pytest.approx(1)
    assert average_precision(Oracle(data, labels, 3, moved=40), data, 3)["AP"] < 0.1


def test_unknown_classes_are_refused(annotations: Path) -> None:
    data = dataset_for(annotations, annotations.parent / "images")
    with pytest.raises(ConfigError, match="oracle: --coco needs to know its classes"):
        average_precision(Oracle(data, None, 1), data, 1)
    with pytest.raises(DataError, match="oracle: has no class light, which"):
        average_precision(Oracle(data, LabelSpace(("dark",), (3,)), 1), data, 1)


def test_the_folder_of_images_is_found_by_the_name(tmp_path: Path, annotations: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").symlink_to(annotations.parent / "images")
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_bytes(annotations.read_bytes())
    assert len(dataset_for(file, None)) == len(dataset_for(annotations, annotations.parent / "images"))
    with pytest.raises(ConfigError, match="give it with --images"):
        dataset_for(annotations.rename(annotations.with_name("other_words.json")), None)
