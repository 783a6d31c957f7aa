# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Backbone and encoder of the DETR family against the official code, padded batches included."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill_detr, load_golden, load_json
from isdfine.nn.backbone.resnet import ResNet
from isdfine.nn.keys import PartTable, use_table
from isdfine.nn.padding import Padding
from isdfine.nn.position import map_sines
from isdfine.zoo.encoders import DeformableEncoder, DenseEncoder

NAMES = PartTable(
    (
        ("transformer.level_embed", "encoder.level_embed"),
        ("transformer.encoder.layers", "encoder.layers"),
        ("transformer.encoder.query_scale", "encoder.query_scale"),
        ("input_proj", "encoder.input_proj"),
        ("backbone.0.body", "backbone"),
    )
)
DEEP = {
    "deformable_r50": {},
    "dab_deformable_r50": {"dim_feedforward": 2048},
    "dn_deformable_r50": {"dim_feedforward": 2048},
}
ORIGINAL = {"dim_feedforward": 2048, "pe_temperature": 20.0, "pe_offset": 0.0}


class BeforeTheDecoder(nn.Module):
    """Filled by the official keys."""

    def __init__(self, name: str, salt: str) -> None:
        super().__init__()
        dense = name in ("dab_r50", "dn_r50")
        self.backbone = ResNet(50, (3,) if dense else (1, 2, 3), normalize=False)
        self.encoder = DenseEncoder() if dense else DeformableEncoder(**(ORIGINAL if "dino" in name else DEEP[name]))
        use_table(self, NAMES)
        fill_detr.fill_module(self, salt).eval()


def places(name: str, model: BeforeTheDecoder, images: Tensor, padding: Padding) -> dict[str, Tensor]:
    """What the fixtures call the tensors on the way."""
    with torch.inference_mode():
        maps = model.backbone(images, padding)
        memory = [level.flatten(2) for level in model.encoder(maps, padding)]  # (B, D, S)
        if isinstance(model.encoder, DenseEncoder):
            size = maps[0].shape[-2:]
            sines = map_sines(size, 256, temperature=20.0, offset=0.0, padding=padding)
            projected = model.encoder.input_proj(maps[0])
            return {
                "body": maps[0],
                "pos": sines.mT.unflatten(2, size),
                "input_proj": projected,
                "memory": memory[0].permute(2, 0, 1),
            }
        levels = model.encoder._levels(maps, padding)
    return {
        **{f"body.{index}": one for index, one in enumerate(maps)},
        **{f"input_proj{index}": one for index, one in enumerate(levels)},
        "memory": torch.cat(memory, dim=2).mT,
    }


def check(got: Tensor, stat: np.ndarray, piece: np.ndarray) -> None:
    mean, std, norm = stat.tolist()
    flat = got.flatten()
    picked = flat[torch.arange(64) * max(1, flat.numel() // 64) % flat.numel()]
    torch.testing.assert_close(picked, torch.from_numpy(piece), atol=1e-3 * std, rtol=0)
    assert flat.mean().item() == pytest.approx(mean, abs=1e-3 * std)
    assert flat.std(correction=0).item() == pytest.approx(std, rel=1e-3)
    assert flat.norm().item() == pytest.approx(norm, rel=1e-3)


FAST = ["dab_r50", "dino_r50_4scale"]
SLOW = ["deformable_r50", "dab_deformable_r50", "dn_deformable_r50", "dn_r50"]


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)])
def test_maps_and_memory_are_the_official_ones(name: str) -> None:
    arrays, meta = load_golden(f"detr/{name}_eval.npz")
    model = BeforeTheDecoder(name, meta["salt"])
    keys = load_json(f"detr/{name}_keys.json")["keys"]
    wanted = {key: shape for key, (shape, _) in keys.items() if key.startswith(tuple(row for row, _ in NAMES.rows))}
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == wanted
    for prefix in ("", "pad_"):
        sizes: Any = [tuple(size) for size in meta[f"{prefix}sizes_hw"]]
        images, mask = fill_detr.padded_batch(meta[f"{prefix}image_seeds"], sizes)
        padding = Padding(torch.tensor(sizes), mask.shape[1:], whole_cells=True, visible=True)
        for place, got in places(name, model, torch.from_numpy(images), padding).items():
            check(got, arrays[f"stat/{prefix}{place}"], arrays[f"slice/{prefix}{place}"])
