# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny data sets and configs for tests that need a whole run."""

import importlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
SIZE = (64, 96)
"""(height, width) of the generated pictures: not square."""


def load_tool(name: str) -> ModuleType:
    """The module behind ``tools/NAME.py``: one of ``isdfine.commands``, or the script itself."""
    if (ROOT / "src" / "commands" / f"{Path(name).name}.py").is_file():
        return importlib.import_module(f"isdfine.commands.{Path(name).name}")
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_coco(
    folder: Path,
    *,
    images: int = 8,
    categories: Sequence[tuple[int, str]] = ((1, "dark"), (2, "light")),
    boxes: Sequence[int] = (2, 1, 3),
    seed: int = 0,
) -> Path:
    """Grey pictures with dark and light rectangles, and their COCO file; image i has boxes[i % len(boxes)] of them.

    Returns:
        The annotation file; pictures lie beside it in ``images``.
    """
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    height, width = SIZE
    for number in range(images):
        picture = random.integers(100, 140, (height, width, 3), dtype=np.uint8)
        for _ in range(boxes[number % len(boxes)]):
            kind = int(random.integers(len(categories)))
            w, h = int(random.integers(12, width // 2)), int(random.integers(12, height // 2))
            x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
            picture[y : y + h, x : x + w] = (20, 235)[kind % 2]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": categories[kind][0],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(picture).save(folder / "images" / f"{number:03}.png")
        entries.append({"id": number + 1, "file_name": f"{number:03}.png", "height": height, "width": width})
    names = [{"id": category_id, "name": name} for category_id, name in categories]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": names}))
    return path


def loader_section(annotations: Path, *, train: bool, batch: int = 4, size: Sequence[int] = SIZE) -> dict[str, Any]:
    """A data loader as a config describes it."""
    boxes = [
        {"type": "SanitizeBoundingBoxes", "min_size": 1},
        {"type": "ConvertBoxes", "fmt": "cxcywh", "normalize": True},
    ]
    flip = [{"type": "RandomPhotometricDistort", "p": 0.5}, {"type": "RandomHorizontalFlip"}]
    picture = [{"type": "Resize", "size": list(size)}, {"type": "ConvertPILImage", "dtype": "float32", "scale": True}]
    return {
        "type": "DataLoader",
        "dataset": {
            "type": "CocoDetection",
            "img_folder": str(annotations.parent / "images"),
            "ann_file": str(annotations),
            "return_masks": False,
            "transforms": {"type": "Compose", "ops": [*flip, *picture, *boxes] if train else picture},
        },
        "shuffle": train,
        "drop_last": train,
        "num_workers": 0,
        "total_batch_size": batch,
        "collate_fn": {"type": "BatchImageCollateFunction"},
    }


def micro_sections(annotations: Path, output: Path) -> dict[str, Any]:
    """A run that takes seconds: D-FINE with 16 channels, 8 queries and 2 decoder layers on 64 x 96 pixels."""
    return {
        "output_dir": str(output),
        "epoches": 2,
        "print_freq": 1,
        "checkpoint_freq": 100,
        "device": "cpu",
        "clip_max_norm": 0.1,
        "use_ema": True,
        "ema": {"type": "ModelEMA", "decay": 0.99, "warmups": 4},
        "tensorboard": False,
        "num_visualized": 2,
        "eval_spatial_size": list(SIZE),
        "model": "DFINE",
        "criterion": "DFINECriterion",
        "postprocessor": "DFINEPostProcessor",
        "DFINE": {"backbone": "HGNetv2", "encoder": "HybridEncoder", "decoder": "DFINETransformer"},
        "HGNetv2": {"name": "B0", "return_idx": [2, 3], "freeze_at": -1, "freeze_norm": False, "use_lab": True},
        "HybridEncoder": {
            "in_channels": [512, 1024],
            "feat_strides": [16, 32],
            "hidden_dim": 16,
            "use_encoder_idx": [1],
            "dim_feedforward": 32,
            "nhead": 2,
            "expansion": 0.34,
            "depth_mult": 0.5,
        },
        "DFINETransformer": {
            "feat_channels": [16, 16],
            "feat_strides": [16, 32],
            "hidden_dim": 16,
            "nhead": 2,
            "num_levels": 2,
            "num_points": [2, 2],
            "num_layers": 2,
            "num_queries": 8,
            "num_denoising": 6,
            "dim_feedforward": 32,
            "reg_max": 8,
        },
        "DFINEPostProcessor": {"num_top_queries": 10},
        "DFINECriterion": {
            "weight_dict": {"loss_vfl": 1, "loss_bbox": 5, "loss_giou": 2, "loss_fgl": 0.15, "loss_ddf": 1.5},
            "losses": ["vfl", "boxes", "local"],
            "alpha": 0.75,
            "gamma": 2.0,
            "reg_max": 8,
            "matcher": {
                "type": "HungarianMatcher",
                "weight_dict": {"cost_class": 2, "cost_bbox": 5, "cost_giou": 2},
                "alpha": 0.25,
                "gamma": 2.0,
            },
        },
        "evaluator": {"type": "CocoEvaluator", "iou_types": ["bbox"]},
        "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 1e-4},
        "lr_scheduler": {"type": "MultiStepLR", "milestones": [100], "gamma": 0.1},
        "lr_warmup_scheduler": {"type": "LinearWarmup", "warmup_duration": 3},
        "train_dataloader": loader_section(annotations, train=True),
        "val_dataloader": loader_section(annotations, train=False),
    }


def write_micro_config(folder: Path, *, images: int = 8, boxes: Sequence[int] = (2, 1, 3)) -> Path:
    """Data set and YAML file of the micro run in ``folder``; its output goes to ``folder/run``."""
    annotations = write_coco(folder / "data", images=images, boxes=boxes)
    path = folder / "micro.yml"
    path.write_text(yaml.safe_dump(micro_sections(annotations, folder / "run")))
    return path


_KILLED = """
import os, signal, sys
import isdfine
from isdfine.solver.fit import fit
from isdfine.solver.training import Training
run = Training(isdfine.load_config(sys.argv[1], ["output_dir=killed", f"save_every_steps={sys.argv[2]}"]))
save = run.save
def save_and_die(*paths):
    save(*paths)
    if run.progress.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
run.save = save_and_die
fit(run)
"""


def train_until_killed(config: Path, *, save_every_steps: int) -> tuple[int | None, str]:
    """A training in a process of its own, writing to ``killed``, that SIGKILL ends once it has saved after step 3.

    Returns: its exit code and what it printed.
    """
    log = config.with_name("killed.txt")
    from forked import start_script  # here: tools/experiments reads this file from elsewhere

    process = start_script(_KILLED, str(config), str(save_every_steps), log=log)
    process.join()
    return process.exitcode, log.read_text()


TINY_DECODER: dict[str, Any] = {
    "hidden_dim": 16,
    "nhead": 4,
    "num_queries": 8,
    "feat_channels": [16, 16],
    "feat_strides": [8, 16],
    "num_levels": 2,
    "num_points": [2, 1],
    "num_layers": 3,
    "dim_feedforward": 24,
    "num_denoising": 6,
    "eval_spatial_size": [64, 64],
}
"""Arguments of a decoder that takes milliseconds."""
