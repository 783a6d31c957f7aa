# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""D-FINE against the official implementation: keys, sizes and outputs of the whole detector (golden/README.md)."""

import pytest
import torch
from torch import Tensor

from golden_cases import fill, load_golden, load_json, training_case
from isdfine.nn.backbone.hgnetv2 import HGNetv2
from isdfine.nn.types import Predictions
from isdfine.optim.param_groups import named_as_saved
from isdfine.zoo.dfine.decoder import DFINETransformer
from isdfine.zoo.dfine.encoder import HybridEncoder
from isdfine.zoo.dfine.model import DFINE

SIZES = ["n", "s", "m", "l", "x"]


def build(size: str, **decoder: object) -> DFINE:
    """The official COCO model of one size, from the same arguments as its YAML file."""
    variant = load_json("configs.json")["variants"][f"{size}_coco"]
    image = variant["eval_spatial_size"]
    return DFINE(
        HGNetv2(**variant["backbone"], pretrained=False),
        HybridEncoder(**variant["encoder"], eval_spatial_size=image),
        DFINETransformer(variant["num_classes"], eval_spatial_size=image, **(variant["decoder"] | decoder)),
    )


@pytest.mark.parametrize("size", SIZES)
def test_keys_shapes_dtypes_and_counts(size: str) -> None:
    keys = load_json(f"dfine_{size}_keys.json")
    with torch.device("meta"):
        model = build(size)
    state = {
        name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype)[6:]}
        for name, tensor in model.state_dict().items()
    }
    assert state == keys["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == keys["params_train_form"]
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == keys["params_train_form_trainable"]
    frozen = [name for name, one in named_as_saved(model) if not one.requires_grad]
    assert sorted(frozen) == sorted(keys["frozen_parameters"])


def by_row(index: Tensor, values: Tensor) -> Tensor:
    """Queries of every image in the order of their memory rows: ranks may swap between implementations."""
    order = index.argsort(dim=1)
    return values.gather(1, order[..., None].expand_as(values))


def compare_eval(size: str, prefix: str) -> dict[str, float]:
    """Largest differences of logits and boxes, and the share of logits within 1e-4."""
    arrays, meta = load_golden(f"dfine_{size}_eval.npz")
    case = meta[prefix or "main"]
    images = torch.cat(
        [torch.from_numpy(fill.image_batch(seed, 1, case["height"], case["width"])) for seed in case["image_seeds"]]
    )
    model = fill.fill_module(build(size)).eval()
    chosen: list[Tensor] = []
    select = model.decoder.queries.select_rows
    model.decoder.queries.select_rows = lambda logits, count: chosen.append(select(logits, count)) or chosen[-1]
    with torch.inference_mode():
        answer = model(images)
    want = {name: torch.from_numpy(arrays[prefix + name]) for name in ("pred_logits", "pred_boxes", "topk_index")}
    rows, want_rows = chosen[0], want["topk_index"].long()
    assert torch.equal(rows.sort(dim=1).values, want_rows.sort(dim=1).values)
    logits = (by_row(rows, answer.logits) - by_row(want_rows, want["pred_logits"])).abs()
    boxes = (by_row(rows, answer.boxes) - by_row(want_rows, want["pred_boxes"])).abs()
    limit = 5e-4 if size == "x" else 1e-4
    return {
        "logits": logits.max().item(),
        "boxes": boxes.max().item(),
        "near": (logits <= limit).float().mean().item(),
    }


CASES = [("n", ""), ("n", "ns_"), ("s", ""), ("m", ""), ("l", ""), ("x", ""), ("s", "ns_"), ("l", "ns_")]
FAST = CASES[:3]


@pytest.mark.parametrize(
    ("size", "prefix"), [case if case in FAST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_eval_outputs(size: str, prefix: str) -> None:
    worst = compare_eval(size, prefix)
    assert worst["logits"] <= (1e-3 if size == "x" else 5e-4)
    assert worst["near"] >= 0.99
    assert worst["boxes"] <= 1e-5


def compare_train(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Largest difference of each kind of output over all prediction sets of one training step."""
    arrays, meta, images, targets = training_case(name, monkeypatch)
    model = fill.fill_module(build(meta["variant"], num_denoising=meta["num_denoising"])).train()
    output = model(images, targets)
    want_rows = torch.from_numpy(arrays["topk_index"]).long()
    assert torch.equal(output.memory_index.sort(dim=1).values, want_rows.sort(dim=1).values)

    worst: dict[str, float] = {}

    def compare(label: str, got: Predictions, matching: bool = True) -> None:
        fields = {"logits": got.logits, "boxes": got.boxes, "corners": got.edge_logits}
        for kind, value in fields.items():
            key = f"{label}/pred_{kind}"
            if value is None or key not in arrays:
                continue
            want = torch.from_numpy(arrays[key])
            if matching:
                value, want = by_row(output.memory_index, value), by_row(want_rows, want)
            worst[kind] = max(worst.get(kind, 0.0), (value - want).abs().max().item())

    *auxiliary, final = output.layers
    compare("final", final)
    want_base = by_row(want_rows, torch.from_numpy(arrays["final/ref_points"]))
    worst["base"] = (by_row(output.memory_index, final.initial_boxes) - want_base).abs().max().item()
    for i, layer in enumerate(auxiliary):
        compare(f"aux_{i}", layer)
    compare("pre", output.initial)
    compare("enc_0", output.proposals)
    for i, layer in enumerate(output.groups["dn"].layers if output.groups else []):
        assert f"dn_{i}/pred_boxes" in arrays
        compare(f"dn_{i}", layer, matching=False)
    return worst


@pytest.mark.parametrize(
    "name", ["dfine_n_train", "dfine_n_train_dn", pytest.param("dfine_l_train", marks=pytest.mark.slow)]
)
def test_train_outputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    worst = compare_train(name, monkeypatch)
    logit_limit = 1e-2 if name == "dfine_l_train" else 2e-3
    assert worst["logits"] <= logit_limit
    assert worst["corners"] <= logit_limit
    assert worst["boxes"] <= 1e-4
    assert worst["base"] <= 1e-4
