# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from PIL import Image

import isdfine
from builders import SIZE, write_micro_config
from figure_cases import patch
from hf_cases import filled
from isdfine.core.errors import ConfigError
from isdfine.deploy.decoder_pictures import draw_attention, draw_refinement, draw_self_attention, layer_numbers
from isdfine.deploy.inspection import Inspection, inspect_image

IMAGE = Image.new("RGB", SIZE[::-1])


def inspect(folder: Path, *overrides: str) -> Inspection:
    config = isdfine.load_config(
        write_micro_config(folder), ["num_classes=2", "DFINETransformer.num_layers=3", *overrides]
    )
    return inspect_image(filled(config).eval(), torch.rand(1, 3, *SIZE), SIZE)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return inspect(tmp_path_factory.mktemp("micro"))


def titles(figure) -> str:
    return " ".join(axes.get_title() for part in (figure, *figure.subfigs) for axes in part.get_axes())


def test_first_and_last_layer_unless_others_are_named(seen: Inspection) -> None:
    figure = draw_refinement(IMAGE, seen, 4, "cat")
    assert [f"left, layer {layer}" in titles(figure) for layer in (1, 2, 3)] == [True, False, True]
    assert patch(figure, "refined").get_bbox().extents == pytest.approx(seen.boxes_xyxy_px[4], abs=1e-3)
    assert "left, layer 2" in titles(draw_refinement(IMAGE, seen, 4, "cat", [2]))


def test_all_layers_unless_some_are_named(seen: Inspection) -> None:
    for draw in (
        lambda layers: draw_attention(IMAGE, seen, 4, "cat", layers),
        lambda layers: draw_self_attention(seen, layers),
    ):
        assert [f"layer {layer}" in titles(draw(())) for layer in (1, 2, 3)] == [True] * 3
        assert [f"layer {layer}" in titles(draw([3, 1])) for layer in (1, 2, 3)] == [True, False, True]


def test_layers_that_are_not_there() -> None:
    assert layer_numbers([3, 1, 3], 3) == [1, 3]
    for wrong in (0, 4):
        with pytest.raises(ConfigError, match=f"--layers {wrong}: the decoder has the layers 1 to 3"):
            layer_numbers([1, wrong], 3)


def test_no_distributions(tmp_path: Path) -> None:
    direct = inspect(tmp_path, "DFINETransformer.box_head=direct")
    with pytest.raises(ConfigError, match="box_head is direct"):
        draw_refinement(IMAGE, direct, 0, "cat")
    assert "layer 3" in titles(draw_attention(IMAGE, direct, 0, "cat"))
