# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR and RT-DETRv2 against the official code: keys, counts, outputs, a training step (golden/detr/README.md)."""

import pytest
import torch
from torch import Tensor

from golden_cases import load_golden, load_json
from isdfine.distill.objective import build_objective
from isdfine.nn.types import Predictions
from rtdetr_cases import KEYS, by_row, filled, images_of, official, sets_of, step_of


@pytest.mark.parametrize("name", KEYS)
def test_keys_shapes_dtypes_and_counts(name: str) -> None:
    facts = load_json(f"detr/{name}_keys.json")
    with torch.device("meta"):
        model = official(name).build("model")
    state = {key: [list(one.shape), str(one.dtype)[6:]] for key, one in model.state_dict().items()}
    assert state == facts["keys"]
    assert sum(one.numel() for one in model.parameters()) == facts["parameters"]
    trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert trainable == facts["trainable_parameters"]


@pytest.mark.parametrize("name", KEYS)
def test_every_parameter_is_in_the_official_group(name: str) -> None:
    facts = load_json(f"detr/{name}_keys.json")
    config = official(name)
    with torch.device("meta"):
        model = config.build("model")
    optimizer = config.build("optimizer", model=model)
    groups = [group for group in facts["optimizer"]["groups"] if group["tensors"]]
    held = [group for group in optimizer.param_groups if group["params"]]
    assert [(one["lr"], one["weight_decay"], one["tensors"], one["params"]) for one in groups] == [
        (one["lr"], one["weight_decay"], len(one["params"]), sum(each.numel() for each in one["params"]))
        for one in held
    ]


def answers(name: str, prefix: str) -> tuple[Predictions, Tensor, dict[str, Tensor]]:
    """What the filled model says in eval mode, the chosen rows, and the fixture's tensors of one case."""
    arrays, meta = load_golden(f"detr/{name}_eval.npz")
    model = filled(name).eval()
    chosen: list[Tensor] = []
    select = model.decoder.queries.select_rows
    model.decoder.queries.select_rows = lambda logits, count: chosen.append(select(logits, count)) or chosen[-1]
    with torch.inference_mode():
        predictions = model(images_of(meta, prefix))
    wanted = {
        key.removeprefix(prefix): torch.from_numpy(value)
        for key, value in arrays.items()
        if key.startswith(prefix) and (prefix or not key.startswith("rect_"))
    }
    return predictions, chosen[0], wanted


FAST = [("rtdetr_r18vd", ""), ("rtdetr_r18vd", "rect_"), ("rtdetrv2_r18vd", "")]
SLOW = [
    *(("rtdetrv2_r18vd", "rect_"), ("rtdetr_r50vd", ""), ("rtdetr_r50vd", "rect_")),
    *(("rtdetrv2_hgnetv2_l", ""), ("rtdetrv2_hgnetv2_l", "rect_")),
]


@pytest.mark.parametrize(("name", "prefix"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_outputs_are_the_official_ones(name: str, prefix: str) -> None:
    predictions, rows, wanted = answers(name, prefix)
    index = wanted["topk_index"].long()
    assert torch.equal(rows.sort(dim=1).values, index.sort(dim=1).values)
    boxes = by_row(rows, predictions.boxes) - by_row(index, wanted["pred_boxes"])
    assert boxes.abs().max() < 2e-5
    if "pred_logits" in wanted:
        logits, expected = predictions.logits, wanted["pred_logits"]
    else:
        logits, expected = predictions.logits[..., ::13], wanted["pred_logits_sub"]
        sums = predictions.logits.logsumexp(-1, keepdim=True)
        difference = by_row(rows, sums) - by_row(index, wanted["pred_logits_lse"][..., None])
        assert difference.abs().max() < 1e-3
    difference = (by_row(rows, logits) - by_row(index, expected)).abs()
    assert difference.max() < 1e-3
    assert (difference < 2e-4).float().mean() > 0.99


@pytest.mark.parametrize("name", ["rtdetr_r18vd", pytest.param("rtdetr_r50vd", marks=pytest.mark.slow)])
def test_detections_from_the_stored_outputs(name: str) -> None:
    arrays, _ = load_golden(f"detr/{name}_eval.npz")
    for prefix in ("", "rect_"):
        if f"{prefix}pred_logits" not in arrays:
            continue
        stored = {key: torch.from_numpy(arrays[prefix + key]) for key in ("pred_logits", "pred_boxes")}
        post = official(name).build("postprocessor")
        sizes = torch.from_numpy(arrays[f"{prefix}orig_target_sizes_wh"])
        detections = post(Predictions(stored["pred_logits"], stored["pred_boxes"]), sizes)
        assert torch.equal(detections.labels, torch.from_numpy(arrays[f"{prefix}post_labels"]).long())
        for name_of, got in (("boxes", detections.boxes), ("scores", detections.scores)):
            torch.testing.assert_close(got, torch.from_numpy(arrays[f"{prefix}post_{name_of}"]), rtol=1e-5, atol=1e-5)


STEPS = [
    *("rtdetr_r18vd_empty_train_dn", "rtdetrv2_r18vd_train_dn", "rtdetr_r18vd_train_dn", "rtdetr_r18vd_train_nodn"),
    pytest.param("rtdetr_r50vd_train_dn", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_is_the_official_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, output, targets, arrays, meta = step_of(name, monkeypatch)
    objective = build_objective(official(name.split("_train")[0].removesuffix("_empty")), model)
    sets = sets_of(output, first_version="v2" not in name)
    rows, index = output.memory_index, torch.from_numpy(arrays["topk_index"]).long()
    assert rows is not None
    assert torch.equal(rows.sort(dim=1).values, index.sort(dim=1).values)
    assert {key.split("/")[1] for key in arrays if key.startswith("match/")} <= set(sets)
    for key, one in sets.items():
        expected = {
            part: torch.from_numpy(arrays[f"out/{key}_{part}"]) for part in ("logits_sub", "logits_lse", "boxes")
        }
        got = {"logits_sub": one.logits[..., ::13], "logits_lse": one.logits.logsumexp(-1), "boxes": one.boxes}
        for part, limit in (("logits_sub", 2e-3), ("logits_lse", 2e-3), ("boxes", 5e-5)):
            ours, theirs = (value if value.dim() == 3 else value[..., None] for value in (got[part], expected[part]))
            if not key.startswith("dn"):
                ours, theirs = by_row(rows, ours), by_row(index, theirs)
            assert (ours - theirs).abs().max() < limit, (key, part)
        if f"match/{key}" in arrays:
            matched = objective.criterion.matcher(one, targets)
            pairs = {
                (image, int(rows[image, query]), target)
                for image, (queries, of_image) in enumerate(matched)
                for query, target in zip(queries.tolist(), of_image.tolist())
            }
            wanted = {(b, int(index[b, q]), t) for b, q, t in arrays[f"match/{key}"].tolist()}
            assert pairs == wanted, key

    losses = objective(output, targets)
    assert set(losses) == set(meta["losses_weighted"])
    for key, value in meta["losses_weighted"].items():
        assert losses[key].item() == pytest.approx(value, rel=2e-4, abs=1e-6), key
    total = sum(losses.values())
    assert total.item() == pytest.approx(meta["total"], rel=2e-4)
    total.backward()
    facts = load_json(f"detr/{name}_grads.json")
    norms = facts["grad_norm"]
    largest = max(norm for norm in norms.values() if norm is not None)
    for key, parameter in model.state_dict(keep_vars=True).items():
        if norms.get(key) is not None:
            assert parameter.grad is not None, key
            assert abs(parameter.grad.norm().item() - norms[key]) <= 1e-2 * norms[key] + 1e-4 * largest, key
    after = model.state_dict()
    for key in [key for key in arrays if key.startswith("bn_after/")]:
        torch.testing.assert_close(
            after[key.removeprefix("bn_after/")], torch.from_numpy(arrays[key]), atol=1e-5, rtol=1e-3
        )
