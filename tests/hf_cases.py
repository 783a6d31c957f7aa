# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Models of transformers for tests: micro ones for every test, and those of the published sizes."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isdfine
from builders import write_micro_config
from golden_cases import fill
from isdfine.core.checkpoint.card import Card
from isdfine.load import open_checkpoint
from isdfine.zoo.huggingface.config import config_to_huggingface
from isdfine.zoo.huggingface.folder import write_folder
from isdfine.zoo.huggingface.weights import from_huggingface, to_huggingface

CONFIGS = Path(__file__).parents[1] / "configs" / "dfine"
NAMES = ("dark", "light")
_FILLED: dict[str, dict[str, Tensor]] = {}


def load_transformers() -> Any:
    """The package, or a skip where it is absent. What it warns of while it is imported is not ours to repair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers", minversion="4.52", reason="pip install transformers")
        _ = transformers.DFineForObjectDetection, transformers.DFineConfig
    transformers.utils.logging.disable_progress_bar()
    return transformers


def is_version_5() -> bool:
    """Whether the installed transformers has the names and the position table that came with 5."""
    return int(load_transformers().__version__.split(".")[0]) >= 5


def their_model(content: dict[str, Any]) -> nn.Module:
    """``DFineForObjectDetection`` with random weights, from a ``config.json``."""
    transformers = load_transformers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        torch.manual_seed(0)
        model: nn.Module = transformers.DFineForObjectDetection(transformers.DFineConfig(**copy.deepcopy(content)))
    return model.eval()


def load_theirs(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """``from_pretrained`` of a local folder, and what it says about missing and unexpected keys."""
    transformers = load_transformers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        model, info = transformers.DFineForObjectDetection.from_pretrained(folder, output_loading_info=True)
    return model.eval(), info


def official(size: str) -> isdfine.Config:
    """Our config of one published size."""
    return isdfine.load_config(CONFIGS / f"dfine_hgnetv2_{size}_coco.yml", ["HGNetv2.pretrained=False"])


def filled(config: isdfine.Config) -> nn.Module:
    """Our model with the golden weights; class heads ten times smaller.

    In full size they turn the rounding noise of this network into differences of 1e-4 (golden/README.md), which is the
    bound that conversions have to keep.
    """
    model: nn.Module = config.build("model")
    sections = ("num_classes", "eval_spatial_size", "HGNetv2", "HybridEncoder", "DFINETransformer")
    # tests of runs make backbones small, which no config says
    key = str([*(config.get(name) for name in sections), sum(weight.numel() for weight in model.parameters())])
    if key not in _FILLED:  # the fill of a micro model takes a second, and many tests want the same
        fill.fill_module(model)
        for head in model.decoder.score_head.layers:
            head.weight.data.mul_(0.1)
        _FILLED[key] = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(_FILLED[key])
    return model.eval()


def micro(folder: Path, **values: Any) -> isdfine.Config:
    """A config of a model that runs in milliseconds, for square images."""
    config = isdfine.load_config(write_micro_config(folder))
    return config.with_values({"eval_spatial_size": [64, 64], "num_classes": 2, **values})


def write_micro_folder(folder: Path, config: isdfine.Config, card: Card | None = None) -> nn.Module:
    """A folder of transformers with a micro model, and the model."""
    model = filled(config)
    content = config_to_huggingface(config.data, num_classes=2, names=NAMES)
    weights = to_huggingface(model.state_dict())
    write_folder(folder, content, weights, card or Card(config=config.data), image_size=(64, 64))
    return model


def check_published(source: nn.Module, folder: Path, ours: Callable[[dict[str, Tensor]], nn.Module], name: str) -> None:
    """Weights of a folder and in memory are the same under published names, and give equal outputs in padded batches.

    ``ours`` makes a model of such weights.
    """
    source.save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.form.startswith(f"transformers {name} folder (transformers ")
    assert checkpoint.model_sections is None
    in_memory = from_huggingface(source.state_dict())
    assert in_memory.keys() == checkpoint.weights.keys()
    assert all(torch.equal(value, checkpoint.weights[key]) for key, value in in_memory.items())
    model = ours(checkpoint.weights)
    images, sizes = torch.randn(2, 3, 128, 160), torch.tensor([(128, 160), (64, 96)])
    mask = torch.zeros(2, 128, 160, dtype=torch.long)
    for image_mask, (height, width) in zip(mask, sizes.tolist()):
        image_mask[:height, :width] = 1
    images = images * mask[:, None]
    with torch.inference_mode():
        expected = source(pixel_values=images, pixel_mask=mask)
        got = model(images, image_sizes=sizes)
    torch.testing.assert_close(got.logits, expected.logits, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(got.boxes, expected.pred_boxes, atol=2e-5, rtol=0)


def compare(theirs: nn.Module, ours: nn.Module, images: Tensor) -> tuple[float, float]:
    """Largest differences of logits and boxes; queries are aligned by memory row, for close ones may change places."""
    chosen: list[Tensor] = []
    select = ours.decoder.queries.select_rows
    scores: list[Tensor] = []
    hook = theirs.model.enc_score_head.register_forward_hook(lambda _module, _inputs, output: scores.append(output))
    ours.decoder.queries.select_rows = lambda *given: chosen.append(select(*given)) or chosen[-1]
    with torch.inference_mode():
        want, got = theirs(pixel_values=images), ours(images)
    hook.remove()
    ours.decoder.queries.select_rows = select
    want_rows = scores[0].max(-1).values.topk(got.logits.shape[1], dim=1).indices
    assert torch.equal(want_rows.sort(dim=1).values, chosen[0].sort(dim=1).values), "other queries were selected"

    def by_row(rows: Tensor, values: Tensor) -> Tensor:
        return values.gather(1, rows.argsort(dim=1)[..., None].expand_as(values))

    logits = by_row(want_rows, want.logits) - by_row(chosen[0], got.logits)
    boxes = by_row(want_rows, want.pred_boxes) - by_row(chosen[0], got.boxes)
    return logits.abs().max().item(), boxes.abs().max().item()
