# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the objects built from a config hold, in the arrangement of golden/configs.json, and how to compare the two."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import isdfine
from isdfine.core import config as build_module
from isdfine.core.config.plan import Plan

RANDOM_START = "HGNetv2.pretrained=False"
ABSENT = "(nothing)"


def write_data(folder: Path, category_ids: list[int], images: int = 256) -> dict[str, str]:
    """Enough tiny pictures for every batch size of the official files; returns config values that point there."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (40, 32), (90, 120, 40)).save(folder / "images" / "0.png")
    for number in range(1, images):
        (folder / "images" / f"{number}.png").hardlink_to(folder / "images" / "0.png")
    entries = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 32} for i in range(images)]
    boxes = [
        {"id": i + 1, "image_id": i, "category_id": category, "bbox": [4, 4, 20, 16], "area": 320, "iscrowd": 0}
        for i, category in enumerate(category_ids)
    ]
    categories = [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids]
    content = {"images": entries, "annotations": boxes, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    return {
        f"{side}_dataloader.dataset.{key}": str(folder / name)
        for side in ("train", "val")
        for key, name in (("img_folder", "images"), ("ann_file", "boxes.json"))
    }


class Calls:
    """Every constructor call of a build, by class name, with the defaults filled in."""

    def __init__(self) -> None:
        self.arguments: dict[str, list[dict[str, Any]]] = {}

    def record(self, plan: Plan, given: dict[str, Any]) -> None:
        bound = inspect.signature(plan.cls).bind(**given)
        bound.apply_defaults()
        self.arguments.setdefault(plan.cls.__name__, []).append(dict(bound.arguments))

    def one(self, name: str) -> dict[str, Any]:
        """Arguments of the only call, or of the last of equal ones."""
        return self.arguments[name][-1]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Listens to the builder."""
    seen = Calls()
    original = build_module._Builder.arguments

    def listening(self: Any, plan: Plan) -> dict[str, Any]:
        given = original(self, plan)
        seen.record(plan, given)
        return given

    monkeypatch.setattr(build_module._Builder, "arguments", listening)
    return seen


def built_values(config: isdfine.Config, calls: Calls) -> dict[str, Any]:
    """Build everything that a run consists of and read what its parts were made with."""
    with torch.device("meta"):
        model = config.build("model")
    optimizer = config.build("optimizer", model=model)
    for name in ("criterion", "postprocessor", "lr_scheduler", "lr_warmup_scheduler", "evaluator"):
        config.build(name)
    ema = config.build("ema", model=model)
    sides = [config.build(f"{side}_dataloader") for side in ("train", "val")]
    train_calls, val_calls = calls.arguments["DataLoader"]
    train = sides[0].dataset.transforms
    collate = sides[0].collate_fn
    settings = config.settings
    return {
        "num_classes": calls.one("DFINETransformer")["num_classes"],
        "remap_mscoco_category": calls.one("CocoDetection")["remap_mscoco_category"],
        "eval_spatial_size": calls.one("DFINETransformer")["eval_spatial_size"],
        "backbone": calls.one("HGNetv2"),
        "encoder": calls.one("HybridEncoder"),
        "decoder": calls.one("DFINETransformer"),
        "criterion": calls.one("DFINECriterion"),
        "matcher": calls.one("HungarianMatcher"),
        "postprocessor": calls.one("DFINEPostProcessor"),
        "optimizer": {
            "type": type(optimizer).__name__,
            **{key: optimizer.defaults[key] for key in ("lr", "weight_decay", "betas")},
            "groups": [{**group, "params": group["name"]} for group in optimizer.param_groups[:-1]],
        },
        "lr_scheduler": {"type": "MultiStepLR", **calls.one("MultiStepLR")},
        "lr_warmup_scheduler": {"type": "LinearWarmup", **calls.one("LinearWarmup")},
        "ema": {"type": type(ema).__name__, **calls.one("ModelEMA")},
        "use_amp": settings.use_amp,
        "clip_max_norm": settings.clip_max_norm,
        "sync_bn": settings.sync_bn,
        "epochs": settings.epoches,
        "train_total_batch_size": train_calls["total_batch_size"],
        "val_total_batch_size": val_calls["total_batch_size"],
        "augmentation_stop_epoch": train.stop_epoch,
        "stopped_ops": sorted(train.stopped, key=[type(op).__name__ for op in train.ops].index),
        "train_ops": [_op(op) for op in train.ops],
        "val_ops": [_op(op) for op in sides[1].dataset.transforms.ops],
        "multiscale": {
            "stop_epoch": collate.stop_epoch,
            "base_size": collate.base_size[0] if collate.base_size[0] == collate.base_size[1] else collate.base_size,
            "base_size_repeat": calls.arguments["BatchImageCollateFunction"][0]["base_size_repeat"],
            "ema_restart_decay": collate.ema_restart_decay,
        },
        "checkpoint_freq": settings.checkpoint_freq,
        "print_freq": settings.print_freq,
    }


def _op(op: Any) -> dict[str, Any]:
    """What a transform holds, under the names that files use."""
    held = {"type": type(op).__name__, **vars(op)}
    if "size" in held:
        held["size"] = list(op.size)
    if hasattr(op, "pixels"):
        held.update(dtype="float32", scale=op.pixels.scale)
    return held


def differences(golden: Any, ours: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every value of ``golden`` that is another one in ``ours``: key, golden, ours. ``ours`` may hold more keys."""
    if isinstance(golden, dict) and isinstance(ours, dict):
        for name, value in golden.items():
            yield from differences(value, ours.get(name, ABSENT), f"{key}.{name}" if key else name)
    elif isinstance(golden, list) and isinstance(ours, (list, tuple)):
        if len(golden) != len(ours):
            yield f"{key} (length)", len(golden), len(ours)
        for place, (expected, other) in enumerate(zip(golden, ours)):
            yield from differences(expected, other, f"{key}.{place}")
    elif golden != ours or isinstance(golden, bool) is not isinstance(ours, bool):
        yield key, golden, ours


def table(rows: list[tuple[str, Any, Any]]) -> str:
    """Differences as text, one line each."""
    lines = [("key", "official", "ours"), *((key, repr(golden), repr(ours)) for key, golden, ours in rows)]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {golden:<{widths[1]}}  {ours}" for key, golden, ours in lines)
