# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from isdfine.bench.subject import IN_GRAPH, Facts, network_input, prepared, recipe_for, tried
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.data.transforms import PixelConversion
from isdfine.deploy.backends.base import Outputs
from isdfine.deploy.preprocess import Recipe

FITTED = {"type": "ResizeToFit", "size": (32, 32)}
NORMALISED = replace(Recipe.squash((32, 32)), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
LETTERBOX = Recipe((FITTED, {"type": "PadToSize", "size": (32, 32)}))
PADDED = Recipe((FITTED,), {"stride": 32, "fill": "mean"})


def facts(recipe: Recipe | None, size: tuple[int, int] = (32, 32), *, uint8: bool = False) -> Facts:
    return Facts("m.onnx", "tests", "fp32", size, "of the file", IN_GRAPH, recipe, uint8=uint8)


def test_another_size_changes_the_size_only() -> None:
    larger = recipe_for(NORMALISED, (64, 96))
    assert larger is not None
    pixels = np.full((1, 3, 64, 96), 255, dtype=np.uint8)
    assert (larger.size, larger.mean, larger.std) == ((64, 96), NORMALISED.mean, NORMALISED.std)
    assert (network_input(facts(larger, (64, 96)), pixels) == 2).all(), "(1 - 0.5) / 0.25"
    raw = recipe_for(replace(NORMALISED, pixels=PixelConversion(scale=False)), (64, 96))
    assert raw is not None
    assert not raw.pixels.scale
    assert recipe_for(LETTERBOX, (32, 32)) is LETTERBOX


@pytest.mark.parametrize(("own", "size"), [(LETTERBOX, (64, 64)), (PADDED, (32, 32))], ids=["letterbox", "padded"])
def test_images_are_not_squashed_for_models_that_were_not_trained_so(own: Recipe, size: tuple[int, int]) -> None:
    """AP measured on squashed images would not be this model's."""
    described = facts(recipe_for(own, size), size)
    assert described.plain()["resize"] is None
    with pytest.raises(
        ConfigError, match=r"m\.onnx: its own preprocessing does not make .* leave --coco and --with-pre"
    ):
        prepared(described, [Image.new("RGB", (40, 20))])


def test_models_that_normalise_get_the_pixels() -> None:
    pixels, sizes = prepared(facts(NORMALISED, uint8=True), [Image.new("RGB", (40, 20), (7, 7, 7))] * 2)
    assert (pixels.dtype, pixels.shape, sizes.tolist()) == (np.uint8, (2, 3, 32, 32), [[40, 20]] * 2)
    assert (pixels == 7).all()


def test_a_call_that_fails_is_one_line() -> None:
    def fails(error: Exception) -> Outputs:
        raise error

    with pytest.raises(ConfigError, match=r"^m: cannot be run so \(sizes do not fit\): try another --size"):
        tried("m", lambda: fails(RuntimeError("sizes do not fit\nand a page of traces")))
    with pytest.raises(ConfigError, match=r"m: cannot be run so \(MemoryError\)"):
        tried("m", lambda: fails(MemoryError()))
    with pytest.raises(CheckpointError, match=r"^as it is$"):
        tried("m", lambda: fails(CheckpointError("as it is")))
