# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Padded batches through the whole solver: training, evaluation, resuming."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import isdfine
from builders import load_tool, micro_sections, write_coco
from isdfine.data.collate import PaddedBatchCollateFunction
from isdfine.data.evaluate import CocoEvaluator
from isdfine.distill.objective import Objective
from isdfine.nn.types import TRAINING, Predictions
from isdfine.solver.evaluate import evaluate
from isdfine.solver.solver import Evaluation
from isdfine.solver.trained import Trained
from isdfine.zoo.dfine.postprocess import DFINEPostProcessor

ROOT = Path(__file__).parents[2]


def padded_sections(annotations: Path, output: Path) -> dict[str, Any]:
    """The micro run on images of 64 x 96 that become 52 x 78 on canvases of 64 x 96."""
    sections = micro_sections(annotations, output)
    sections["HybridEncoder"]["position_layout"] = "grid"
    for name in ("train_dataloader", "val_dataloader"):
        section = sections[name]
        ops = section["dataset"]["transforms"]["ops"]
        section["dataset"]["transforms"]["ops"] = [
            {"type": "ResizeToFit", "size": [52, 80]} if op["type"] == "Resize" else op for op in ops
        ]
        section["collate_fn"] = {"type": "PaddedBatchCollateFunction"}
        section["bucket_by_aspect"] = True
    sections["train_dataloader"]["collate_fn"]["scales"] = [1.0, 1.5]
    return sections


def write_padded_config(folder: Path) -> Path:
    annotations = write_coco(folder / "data")
    path = folder / "padded.yml"
    path.write_text(yaml.safe_dump(padded_sections(annotations, folder / "run")))
    return path


def test_train_and_evaluate_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool("train")
    config = write_padded_config(tmp_path)
    assert tool.main(["-c", str(config)]) == 0
    trained = capsys.readouterr().out
    assert len(list((tmp_path / "run" / "pictures").glob("*.png"))) == 2
    saved = tmp_path / "run" / "config.yml"
    assert tool.main(["-c", str(saved), "--test-only", "-r", str(tmp_path / "run" / "best.pth")]) == 0
    assert trained.startswith(capsys.readouterr().out)
    stats = []
    for stride in (32, 128):
        wider = [f"val_dataloader.collate_fn.stride={stride}", "val_dataloader.total_batch_size=3"]
        run = Evaluation(isdfine.load_config(saved, wider))
        run.load(tmp_path / "run" / "best.pth")
        assert next(iter(run.val_loader))[0].shape[-2:] == ((64, 96) if stride == 32 else (128, 128))
        stats.append(run.evaluate().stats)
    assert stats[0] == pytest.approx(stats[1], abs=1e-6)


def test_the_official_layout_is_refused_with_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_padded_config(tmp_path)
    assert load_tool("train").main(["-c", str(config), "-u", "HybridEncoder.position_layout=official"]) == 2
    assert "error: HybridEncoder has position_layout='official', whose table" in capsys.readouterr().err


class Oracle(nn.Module):
    """Answers with the annotated boxes, in file order, and writes down the image sizes."""

    def __init__(self, truths: list[tuple[Tensor, Tensor, tuple[int, int]]]) -> None:
        super().__init__()
        self.truths = iter(truths)
        self.sizes: list[list[int]] = []

    def forward(self, images: Tensor, image_sizes: Tensor) -> Predictions:
        self.sizes += image_sizes.tolist()
        logits, boxes = torch.full((len(images), 8, 2), -9.0), torch.full((len(images), 8, 4), 0.01)
        for row in range(len(images)):
            corners, labels, (height, width) = next(self.truths)
            low, high = (corners / torch.tensor([width, height, width, height])).split(2, dim=-1)
            boxes[row, : len(labels)] = torch.cat([(low + high) / 2, high - low], dim=-1)
            logits[row, torch.arange(len(labels)), labels] = 9.0
        return Predictions(logits, boxes)


def test_fractions_of_the_image_become_pixels_of_the_original(tmp_path: Path) -> None:
    sections = padded_sections(write_coco(tmp_path / "data", images=5, boxes=(2, 0, 3)), tmp_path)
    (tmp_path / "c.yml").write_text(yaml.safe_dump({"val_dataloader": sections["val_dataloader"]}))
    loader = isdfine.load_config(tmp_path / "c.yml").build("val_dataloader")
    assert isinstance(loader.collate_fn, PaddedBatchCollateFunction)
    truths = [loader.dataset.ground_truth(int(image_id)) for image_id in loader.dataset.annotations.image_ids]
    model = Oracle([(truth.boxes, truth.labels, truth.size) for truth in truths])
    result = evaluate(model, DFINEPostProcessor(2, num_top_queries=5), loader, CocoEvaluator(dataset=loader.dataset))
    assert result.stats["AP"] == pytest.approx(1.0)
    assert model.sizes == [[52, 78]] * 5


class Recorder(nn.Module):
    """Returns how it was called."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return arguments, options


class Unchanged(Objective):
    """Gives back the output."""

    want = TRAINING
    lesson = None

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def context(self, output: Any, targets: Any, progress: float = 0.0, **when: Any) -> Any:
        return SimpleNamespace(output=output, teacher=None)

    def terms(self, context: Any) -> Any:
        return context.output


def test_a_model_hears_of_padding_only_where_there_is_some() -> None:
    images, plain = torch.zeros(2, 3, 4, 4), [{"labels": torch.zeros(1)}] * 2
    trained = Trained(Recorder(), Unchanged())
    assert trained(images, plain) == ((images, plain), {})  # type: ignore[comparison-overlap]
    padded = [{"image_size": torch.tensor([3, 4])}] * 2
    arguments, options = trained(images, padded)
    assert arguments == (images, padded)
    assert options["image_sizes"].tolist() == [[3, 4], [3, 4]]


def test_the_rectangular_recipe_keeps_the_schedule_of_its_size() -> None:
    folder = ROOT / "configs" / "dfine"
    plain, rect = (isdfine.load_config(folder / f"dfine_hgnetv2_n_coco{end}.yml") for end in ("", "_rect"))
    for key in ("stop_epoch", "ema_restart_decay"):
        name = f"train_dataloader.collate_fn.{key}"
        assert rect.get(name) == plain.get(name) is not None
    name = "train_dataloader.dataset.transforms.policy"
    assert rect.get(name) == plain.get(name)
    model = rect.build("model").eval()
    sizes = torch.tensor([[50, 90], [64, 60]])
    with torch.no_grad():  # 24 cells: fewer than the 300 queries of the recipe
        model.decoder.queries.num_queries = 10
        assert model(torch.rand(2, 3, 64, 96), image_sizes=sizes).boxes.shape == (2, 10, 4)
