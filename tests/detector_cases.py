# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A detector that takes milliseconds, in the forms that ``Detector.load`` reads; and one that says what it is told."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

import isdfine
from builders import SIZE, micro_sections, write_coco
from hf_cases import filled
from isdfine.data.label_space import LabelSpace
from isdfine.deploy.backends.base import BackendInfo, Outputs
from isdfine.deploy.onnx.graph import Deployed, GraphForm, to_onnx
from isdfine.deploy.preprocess import Recipe, recipe_of
from isdfine.load import load_detector

LABELS = LabelSpace(("dark", "light"), (3, 7))
OPS = {
    "squash": [{"type": "Resize", "size": list(SIZE)}],
    "fit": [{"type": "ResizeToFit", "size": [52, 80]}],
    "shorter_side": [{"type": "ResizeShortestEdge", "shortest_edge": 50, "longest_edge": 90}],
    "padded": [{"type": "ResizeToFit", "size": [52, 80]}, {"type": "PadToSize", "size": list(SIZE), "fill": 9}],
}


def micro_config(folder: Path, rule: str = "squash", *, scale: bool = True) -> isdfine.Config:
    """The micro run, evaluating with one of ``OPS``; its data set lies in ``folder/data``."""
    sections = micro_sections(write_coco(folder / "data", categories=((3, "dark"), (7, "light"))), folder / "run")
    sections["HybridEncoder"]["position_layout"] = "grid"
    convert = {"type": "ConvertPILImage", "dtype": "float32", "scale": scale}
    for name in ("train_dataloader", "val_dataloader"):
        sections[name]["dataset"]["transforms"]["ops"] = [
            *OPS[rule], convert, {"type": "ConvertBoxes", "fmt": "cxcywh", "normalize": True},
        ]  # fmt: skip
        if rule in ("fit", "shorter_side"):
            sections[name]["collate_fn"] = {"type": "PaddedBatchCollateFunction"}
    (folder / "micro.yml").write_text(yaml.safe_dump(sections | {"num_classes": 2}))
    return isdfine.load_config(folder / "micro.yml")


def micro_checkpoint(folder: Path, rule: str = "squash") -> Path:
    """``best.pth`` as a run writes it."""
    config = micro_config(folder, rule)
    content = {"model": filled(config).state_dict(), "config": config.dump(), "label_space": LABELS.to_dict()}
    torch.save(content, folder / "best.pth")
    return folder / "best.pth"


def pictures(folder: Path) -> list[Path]:
    """Four images of different sizes and shapes."""
    from PIL import Image

    random = np.random.default_rng(1)
    paths = []
    for number, (height, width) in enumerate([(64, 96), (100, 70), (40, 90), (64, 96)]):
        coarse = random.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(coarse).resize((width, height)).save(paths[-1])
    return paths


_EXPORTED: list[bytes] = []
"""The micro graph: exporting it takes long, and the metadata alone differ between the rules of one size."""


def micro_onnx(checkpoint: Path) -> Path:
    """``model.onnx`` beside a checkpoint of the rules ``squash`` and ``padded``. Slow: tests that use it are marked."""
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    pytest.importorskip("onnxscript", reason="pip install onnxscript")
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    loaded = load_detector(checkpoint)
    recipe = recipe_of(loaded.config)
    if not _EXPORTED:
        deployed = Deployed(loaded.model, loaded.postprocessor, recipe)
        _EXPORTED.append(to_onnx(deployed, GraphForm(SIZE)).SerializeToString())
    proto = onnx.load_from_string(_EXPORTED[0])
    own = {"isdfine_version": "0", "names": '["dark", "light"]', "ids": "[3, 7]"}
    onnx.helper.set_model_props(proto, own | recipe.to_metadata())
    path = checkpoint.with_name("model.onnx")
    onnx.save(proto, path)
    return path


class TellTale:
    """A backend that answers what a function says of each image, and remembers how it was called.

    Args:
        answer: pixels (3, H, W) -> rows of label, x1, y1, x2, y2 (fractions of the image), score.
        size: (height, width) of the network's input.
    """

    def __init__(
        self, answer: Callable[[NDArray[Any]], Sequence[Sequence[float]]], size: tuple[int, int] = (32, 32)
    ) -> None:
        self.answer = answer
        self.info = BackendInfo(LABELS, Recipe.squash(size), "tests")
        self.batches: list[int] = []

    def run(
        self, images: NDArray[Any], orig_sizes: NDArray[np.int64], image_sizes: NDArray[np.int64] | None = None
    ) -> Outputs:
        self.batches.append(len(images))
        answers = [self.answer(image) for image in images]
        count = max(len(answer) for answer in answers)
        rows = np.zeros((len(images), count, 6))
        for place, answer in zip(rows, answers):
            place[: len(answer)] = np.array(answer, dtype=float).reshape(-1, 6)
        boxes = rows[..., 1:5] * np.tile(orig_sizes, (1, 2))[:, None]
        return Outputs(rows[..., 0].astype(np.int64), boxes.astype(np.float32), rows[..., 5].astype(np.float32))
