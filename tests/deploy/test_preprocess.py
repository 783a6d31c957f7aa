# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a network gets at inference is what it got when its run was evaluated, to the last bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector_cases import OPS, micro_config, pictures
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.core.registry import register
from isdfine.data.collate import PaddedBatchCollateFunction
from isdfine.deploy.preprocess import Recipe, recipe_of


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("rule", OPS)
def test_pixels_are_those_of_the_evaluation(tmp_path: Path, rule: str, scale: bool) -> None:
    config = micro_config(tmp_path, rule, scale=scale)
    recipe = recipe_of(config)
    again = Recipe.from_metadata(recipe.to_metadata(), "model.onnx")
    loader = config.build("val_dataloader")
    images, targets = next(iter(loader))
    files = [loader.dataset.img_folder / name for name in loader.dataset.annotations.file_names[: len(images)]]
    for preprocess in (recipe, again):
        assert preprocess.rule == ("fit" if rule == "padded" else rule)
        [(indices, prepared)] = preprocess.prepare([Image.open(path).convert("RGB") for path in files])
        assert indices == list(range(len(images)))
        assert prepared.pixels.dtype == np.uint8
        assert torch.equal(preprocess.to_input(torch.from_numpy(prepared.pixels)), images)
        assert prepared.sizes.tolist() == [target["orig_size"].tolist() for target in targets]
        content = [target["image_size"].tolist() for target in targets if "image_size" in target]
        assert ([] if prepared.image_sizes is None else prepared.image_sizes.tolist()) == content
    assert (recipe.size is None) == (rule in ("fit", "shorter_side"))


def test_images_of_one_canvas_go_together(tmp_path: Path) -> None:
    images = [Image.open(path).convert("RGB") for path in pictures(tmp_path)]
    groups = recipe_of(micro_config(tmp_path, "fit")).prepare(images)
    assert [indices for indices, _ in groups] == [[0, 2, 3], [1]]
    assert [prepared.pixels.shape[2:] for _, prepared in groups] == [(64, 96), (64, 64)]
    [(indices, prepared)] = Recipe.squash((32, 64)).prepare(images)
    assert indices == [0, 1, 2, 3]
    assert prepared.pixels.shape == (4, 3, 32, 64)


def test_mean_and_deviation_of_others_exports() -> None:
    metadata = {"size": "[4, 6]", "resize": "squash", "mean": "[0.5, 0.25, 0]", "std": "[0.5, 0.25, 1]"}
    recipe = Recipe.from_metadata(metadata, "x")
    assert recipe.size == (4, 6)
    pixels = torch.full((1, 3, 4, 6), 255, dtype=torch.uint8)
    assert recipe.to_input(pixels)[0, :, 0, 0].tolist() == [1, 3, 1]
    assert json.loads(Recipe.squash((4, 6)).to_metadata()["size"]) == [4, 6]


def test_what_cannot_be_repeated_is_refused(tmp_path: Path) -> None:
    config = micro_config(tmp_path)
    for ops, reason in (
        ([*OPS["squash"], {"type": "RandomHorizontalFlip"}], "hold RandomHorizontalFlip: inference knows Resize"),
        ([], "resize nothing, so no input size is known"),
        ([*OPS["squash"], {"type": "ConvertPILImage", "dtype": "float16"}], "dtype is 'float16', but models read"),
        (OPS["fit"], "end with ResizeToFit, which gives every image its own size: set val_dataloader"),
        ([{"type": "Resize", "size": [0, 9]}], r"\.transforms: Resize to \[0, 9\], expected whole pixels"),
        ([{"type": "ResizeShortestEdge", "shortest_edge": 9, "longest_edge": 8}, *OPS["squash"]], "at least as long"),
    ):
        with pytest.raises(ConfigError, match=reason):
            recipe_of(config.with_values({"val_dataloader.dataset.transforms.ops": ops}))
    padded = {"type": "PaddedBatchCollateFunction"}
    for wrong, reason in (({"stride": 33}, "has the stride 33"), ({"fill": 300}, "has the fill 300")):
        with pytest.raises(ConfigError, match=reason):
            recipe_of(config.with_values({"val_dataloader.collate_fn": padded | wrong}))
    with pytest.raises(CheckpointError, match=r"m.onnx: its metadata do not say how images are prepared \(KeyError"):
        Recipe.from_metadata({}, "m.onnx")
    with pytest.raises(CheckpointError, match=r"ask for resize 'shorter_side' to \[4, 6\] without the details"):
        Recipe.from_metadata({"size": "[4, 6]", "resize": "shorter_side"}, "m.onnx")
    with pytest.raises(CheckpointError, match="do not say how images are prepared"):
        Recipe.from_metadata({"preprocess": '{"ops": [{"type": "Blur"}]}'}, "m.onnx")


def test_a_padding_collate_function_of_the_users_pads_at_inference_too(tmp_path: Path) -> None:
    @register
    class CountingCollateFunction(PaddedBatchCollateFunction):
        """Such as a user's that does more than pad."""

    @register
    class WhiteCollateFunction(PaddedBatchCollateFunction):
        """With arguments in another order, and without the stride."""

        def __init__(self, fill: int = 255) -> None:
            super().__init__(fill=fill)

    config = micro_config(tmp_path, "fit")
    for padded, padding in (
        ({"type": "CountingCollateFunction", "stride": 64, "fill": 255}, {"stride": 64, "fill": 255}),
        ({"type": "WhiteCollateFunction"}, {"stride": 32, "fill": 255}),
    ):
        assert recipe_of(config.with_values({"val_dataloader.collate_fn": padded})).padding == padding


PLAIN = {
    "ops": [{"type": "Resize", "size": [4, 6]}],
    "padding": None,
    "scale": True,
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
}
ODD_METADATA = [
    *({"size": text} for text in ("[1e999, 6]", "[NaN, 6]", "[-4, 6]", "[4.5, 6]", "4", "nothing", "[" * 100_000)),
    *({"size": "[4, 6]", "mean": text} for text in ("[1e999, 0, 0]", "[1]", '"abc"', "[NaN, 0, 0]", "{}5")),
    {"size": "[4, 6]", "std": "[0, 1, 1]"},
    {"preprocess": "3"},
    {"preprocess": "[" * 100_000},
    {"preprocess": "9" * 10_000},
    *(
        {"preprocess": json.dumps({**PLAIN, **change})}
        for change in (
            {"ops": [3]},
            {"ops": [{"type": "Resize", "size": [float("inf"), 6]}]},
            {"ops": [{"type": "Resize", "size": [10**9, 6]}]},
            {"ops": [{"type": "Resize"}]},
            {"ops": "Resize"},
            {"padding": 7},
            {"mean": [1, 2]},
            {"std": [0, 1, 1]},
        )
    ),
]


@pytest.mark.parametrize("metadata", ODD_METADATA)
def test_odd_metadata_are_one_line(metadata: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match=r"^m.onnx: its metadata do not say how images are prepared") as caught:
        Recipe.from_metadata(metadata, "m.onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
