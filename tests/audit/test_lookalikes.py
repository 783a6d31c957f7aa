# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from data import coco_files
from isdfine.audit.lookalikes import LIMIT, alike
from isdfine.audit.pixels import THUMBNAIL, read_pixels
from planted import picture


def thumbnail(image):
    return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def test_the_tree_loses_no_pair():
    random = np.random.default_rng(0)
    base = np.stack([thumbnail(picture(seed)) for seed in range(20)]).astype(float)
    many = np.concatenate([base + random.normal(0, spread, base.shape) for spread in (0, 4, 10, 25)]).clip(0, 255)
    many = many.astype(np.uint8)
    flat = many.reshape(len(many), -1).astype(float)
    flat = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
    differences = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(-1))
    wanted = {(a, b) for a, b in zip(*np.nonzero(differences <= LIMIT)) if a < b}
    pairs = alike(many)
    assert 20 < len(wanted) < 200
    assert {(a, b) for a, b, _ in pairs} == wanted
    np.testing.assert_allclose([d for *_, d in pairs], [differences[a, b] for a, b, _ in pairs], rtol=1e-4)


@pytest.mark.parametrize("change", ["smaller", "quality 20", "brighter", "grey"])
def test_copies_are_recognised(change):
    image = picture(5).resize((640, 480))
    if change == "smaller":
        other = image.resize((200, 150))
    elif change == "brighter":
        other = ImageEnhance.Brightness(image).enhance(1.1)
    elif change == "grey":
        other = image.convert("L")
    else:
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=20)
        other = Image.open(buffer)
    assert [(a, b) for a, b, _ in alike(np.stack([thumbnail(image), thumbnail(picture(6)), thumbnail(other)]))] == [
        (0, 2)
    ]


def test_pictures_without_structure_are_not_compared():
    blank = np.full((3, THUMBNAIL, THUMBNAIL), 250, np.uint8)
    blank[1:, 0, 0] = 200
    assert alike(blank) == []
    assert alike(blank[:0]) == []


def test_frames_of_a_film_are_all_found_without_holding_every_pair():
    random = np.random.default_rng(0)
    frames = np.stack([thumbnail(picture(seed)) for seed in (1, 2)] * 150).astype(float)
    frames = (frames + random.normal(0, 3, frames.shape)).clip(0, 255).astype(np.uint8)
    pairs = alike(frames)
    assert len(pairs) <= 300 * 10
    assert {index for a, b, _ in pairs for index in (a, b)} == set(range(300))
    assert all(a < b and (b - a) % 2 == 0 for a, b, _ in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pairs"), [("coco128", 0), ("doclayout-mini", 0), ("bccd", 1), ("publaynet-samples", 0)]
)
def test_real_pictures_that_differ_are_told_apart(name, pairs):
    paths = sorted(coco_files.shared_data(name).rglob("*.jpg"))
    found = read_pixels(paths)
    assert len(alike(np.stack([found[path].thumbnail for path in paths]))) == pairs
