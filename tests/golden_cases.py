# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Find golden fixtures: committed ones first, then the larger ones that only developers and CI have."""

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
PLACES = (
    HERE / "golden",
    Path(os.environ.get("ISDFINE_GOLDEN", HERE.parent.parent / "shared" / "golden")),
)


def golden_path(name: str) -> Path:
    """Path of one fixture; the test is skipped where a user does not have it."""
    for place in PLACES:
        if (place / name).exists():
            return place / name
    pytest.skip(f"golden fixture {name} is not committed (size) and ../shared/golden is absent")


def load_golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and the meta record of one ``.npz`` fixture."""
    with np.load(golden_path(name)) as stored:
        arrays = {key: stored[key] for key in stored.files if key != "meta_json"}
        meta = json.loads(str(stored["meta_json"])) if "meta_json" in stored.files else {}
    return arrays, meta


def load_json(name: str) -> Any:
    """Content of one ``.json`` fixture."""
    return json.loads(golden_path(name).read_text())


def _load_fill(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(file).stem, HERE / "golden" / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill = _load_fill("fill.py")
fill_detr = _load_fill("detr/fill_detr.py")


def training_case(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, np.ndarray], dict[str, Any], torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Arrays, meta, images and targets of a golden training step; its recorded denoising draws replace random ones."""
    from isdfine.zoo import denoising
    from isdfine.zoo.denoising import DenoisingNoise

    arrays, meta = load_golden(f"{name}.npz")
    images = torch.from_numpy(fill.image_batch(meta["image_seed"], len(meta["targets"]["counts"]), 320, 320))
    truth = fill.random_targets(meta["targets"]["seed"], meta["targets"]["counts"], 80)
    targets = [{key: torch.from_numpy(value) for key, value in one.items()} for one in truth]
    if meta["num_denoising"]:
        noise = DenoisingNoise(*(torch.from_numpy(arrays[f"dn_draw/{i}"]) for i in range(4)))
        monkeypatch.setattr(denoising, "draw_noise", lambda *_: noise)
    return arrays, meta, images, targets
