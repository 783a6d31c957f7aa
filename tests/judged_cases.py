# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Images with annotations and detections, for tests of what is made of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from isdfine.viz.matching import JudgedImage


def judged(truth: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]], name: str = "a.png") -> JudgedImage:
    """From rows (x1, y1, x2, y2, class[, crowd]) and (x1, y1, x2, y2, class, score)."""
    return JudgedImage(
        name,
        np.array([row[:4] for row in truth], dtype=np.float64).reshape(-1, 4),
        np.array([row[4] for row in truth], dtype=np.int64),
        np.array([len(row) > 5 and row[5] for row in truth], dtype=bool),
        np.array([row[:4] for row in found], dtype=np.float64).reshape(-1, 4),
        np.array([row[4] for row in found], dtype=np.int64),
        np.array([row[5] for row in found], dtype=np.float64),
    )


def random_images(seed: int, count: int = 12, classes: int = 3, *, crowds: bool = True) -> list[JudgedImage]:
    """Objects and crowds; detections near some of them, others at random, wrong classes; no two scores are equal."""
    random = np.random.default_rng(seed)
    images = []
    for number in range(count):
        truth, found = [], []
        for _ in range(int(random.integers(0, 7))):
            start, side = random.uniform(0, 80, 2), random.uniform(5, 40, 2)
            label = int(random.integers(classes))
            truth.append((*start, *(start + side), label, bool(crowds and random.random() < 0.1)))
            for _ in range(int(random.integers(0, 4))):
                moved = np.concatenate([start, start + side]) + random.normal(0, 3, 4)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                guess = label if random.random() < 0.8 else int(random.integers(classes))
                found.append((*moved, guess, random.random()))
        for _ in range(int(random.integers(0, 4))):
            start = random.uniform(0, 80, 2)
            found.append((*start, *(start + random.uniform(5, 40, 2)), int(random.integers(classes)), random.random()))
        images.append(judged(truth, found, f"{number}.png"))
    return images
