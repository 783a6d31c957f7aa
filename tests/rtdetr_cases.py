# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR's official models from the facts of golden/detr: configs, filled weights, recorded training steps."""

import functools
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import isdfine
from golden_cases import fill_detr, load_golden, load_json
from isdfine.nn.types import DetectorOutput, Predictions

NOT_A_SECTION = ("train_ops", "collate", "total_batch_size", "constructor_defaults", "remap_mscoco_category")
KEYS = [
    *("rtdetr_r18vd", "rtdetr_r34vd", "rtdetr_r50vd", "rtdetr_r50vd_m", "rtdetr_r101vd"),
    *("rtdetrv2_r18vd", "rtdetrv2_r50vd", "rtdetrv2_hgnetv2_l", "rtdetrv2_hgnetv2_x"),
]


@functools.cache
def official(name: str) -> isdfine.Config:
    """The official config behind one ``*_keys.json``, without data: the sections as the official files have them."""
    facts = load_json(f"detr/{name}_keys.json")["config"]
    sections: dict[str, Any] = {key: value for key, value in facts.items() if key not in NOT_A_SECTION}
    sections["model"] = "RTDETR"
    sections["criterion"] = next(key for key in sections if "Criterion" in key)
    sections["postprocessor"] = "RTDETRPostProcessor"
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yml"
        path.write_text(json.dumps(sections))  # JSON is YAML
        return isdfine.load_config(path)


def filled(name: str, **values: Any) -> torch.nn.Module:
    """The official model of one name with the weights of the fixtures."""
    changed = official(name).with_values(values) if values else official(name)
    model: torch.nn.Module = fill_detr.fill_module(changed.build("model"))
    return model


def by_row(index: Tensor, values: Tensor) -> Tensor:
    """Queries of every image in the order of their memory rows: ranks may swap between implementations."""
    order = index.argsort(dim=1)
    return values.gather(1, order[..., None].expand_as(values))


def images_of(meta: dict[str, Any], prefix: str = "") -> Tensor:
    """The images of an evaluation fixture."""
    height, width = meta[f"{prefix}size_hw"]
    return torch.cat(
        [torch.from_numpy(fill_detr.image_batch(seed, 1, height, width)) for seed in meta[f"{prefix}image_seeds"]]
    )


def step_of(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.nn.Module, DetectorOutput, list[dict[str, Tensor]], dict[str, np.ndarray], dict[str, Any]]:
    """Model, output and targets of a recorded training step, with its recorded denoising draws."""
    from isdfine.zoo import denoising
    from isdfine.zoo.denoising import DenoisingNoise

    arrays, meta = load_golden(f"detr/{name}.npz")
    images = torch.from_numpy(fill_detr.image_batch(meta["image_seed"], len(meta["counts"]), *meta["size_hw"]))
    truth = fill_detr.random_targets(meta["target_seed"], meta["counts"], 80)
    targets = [{key: torch.from_numpy(value) for key, value in one.items()} for one in truth]
    config = name.split("_train")[0].removesuffix("_empty")
    if "dn_draw/0_rand_like" in arrays:
        draws = [torch.from_numpy(arrays[key]) for key in sorted(arrays) if key.startswith("dn_draw/")]
        monkeypatch.setattr(denoising, "draw_noise", lambda *_: DenoisingNoise(*draws))
        model = filled(config).train()
    else:
        model = fill_detr.fill_module(official(config).build("model")).train()
        model.decoder.sources = torch.nn.ModuleList()
    return model, model(images, targets), targets, arrays, meta


def sets_of(output: DetectorOutput, *, first_version: bool) -> dict[str, Predictions]:
    """Prediction sets of the matching queries and of the denoising group under the names of the fixtures."""
    last = len(output.layers) - 1
    sets = {f"aux{i}" if i < last else "last": one for i, one in enumerate(output.layers)}
    assert output.proposals is not None
    sets[f"aux{last}" if first_version else "enc0"] = output.proposals
    groups = output.groups.items()
    return sets | {f"{name}{i}": one for name, group in groups for i, one in enumerate(group.layers)}
