# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable-DETR, DAB-DETR, DN-DETR and DINO against golden/detr: keys, outputs and training steps, in its tolerances.

``name`` is a fixture's, ``dab_r50``; ``prefix`` a case of its evaluation, ``""`` or ``"pad_"``. Images come as they
are: models have ``normalize: False``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill_detr, load_golden, load_json
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.types import DetectorOutput, Predictions, Want

Arrays = Mapping[str, np.ndarray]
Targets = list[dict[str, Tensor]]


def check_keys(name: str, make: Callable[[], nn.Module]) -> None:
    """Keys, shapes, types, aliases and counts of a model built without memory."""
    facts = load_json(f"detr/{name}_keys.json")
    with torch.device("meta"):
        model = make()
    state = model.state_dict(keep_vars=True)
    assert {key: [list(one.shape), str(one.dtype)[6:]] for key, one in state.items()} == facts["keys"]
    assert {key for key, one in state.items() if not isinstance(one, nn.Parameter)} == set(facts["buffers"])
    names: dict[int, list[str]] = {}
    for key in sorted(state):
        names.setdefault(id(state[key]), []).append(key)
    assert {key: first for first, *others in names.values() for key in others} == facts["aliases"]
    parameters = list(model.parameters())
    assert sum(one.numel() for one in parameters) == facts["parameters"]
    assert sum(one.numel() for one in parameters if one.requires_grad) == facts["trainable_parameters"]


def fill(model: nn.Module, name: str, salt: str) -> nn.Module:
    """The same model with the weights of the fixtures."""
    aliases = load_json(f"detr/{name}_keys.json")["aliases"]
    model.load_state_dict(fill_detr.fill_state_dict(model.state_dict(), salt, aliases))
    return model


def eval_batch(meta: Mapping[str, Any], prefix: str) -> dict[str, Tensor | None]:
    """Arguments of a model: images, and their sizes where they are padded."""
    return _batch(meta[f"{prefix}image_seeds"], meta[f"{prefix}sizes_hw"], padded=bool(prefix))


def _batch(seeds: list[int], sizes: list[list[int]], *, padded: bool) -> dict[str, Tensor | None]:
    images, _ = fill_detr.padded_batch(seeds, [tuple(size) for size in sizes])
    return {"images": torch.from_numpy(images), "image_sizes": torch.tensor(sizes) if padded else None}


def check_eval(model: nn.Module, name: str, prefix: str, *, by_rank: bool = False) -> None:
    """Outputs of the first and the last layer of a filled model; ``by_rank``: the order of proposals counts (DINO)."""
    arrays, meta = load_golden(f"detr/{name}_eval.npz")
    with torch.inference_mode():
        output = model.eval()(**eval_batch(meta, prefix), want=Want(layers=True))
    places = _places(output, arrays, f"{prefix}topk_index", by_rank)
    for one, key in ((output.layers[-1], "pred"), (output.layers[0], "aux0")):
        _check_set(one, arrays, f"{prefix}{key}_", places, 1e-3, 2e-5)


def _places(output: DetectorOutput, arrays: Arrays, key: str, by_rank: bool) -> Tensor | None:
    """(B, Q) which of our queries is each of the recorded ones; None where they are in one order."""
    if key not in arrays:
        return None
    wanted, got = torch.from_numpy(arrays[key]).long(), output.memory_index
    assert got is not None
    if by_rank:
        assert torch.equal(got, wanted)
        return None
    assert torch.equal(got.sort(dim=1).values, wanted.sort(dim=1).values)
    return got.argsort(dim=1).gather(1, wanted.argsort(dim=1).argsort(dim=1))


def _check_set(one: Predictions, arrays: Arrays, stem: str, places: Tensor | None, logits: float, boxes: float) -> None:
    got = {
        "logits": one.logits,
        "logits_sub": one.logits[..., ::13],
        "logits_lse": one.logits.logsumexp(-1, keepdim=True),
        "boxes": one.boxes,
    }
    assert f"{stem}boxes" in arrays
    for part, ours in got.items():
        if stem + part not in arrays:
            continue
        theirs = torch.from_numpy(arrays[stem + part])
        ours = ours if places is None else ours.gather(1, places[..., None].expand_as(ours))
        difference = (ours - theirs.view_as(ours)).abs()
        assert difference.max() < (boxes if part == "boxes" else logits), (stem, part, difference.max())
        if part != "boxes":
            assert (difference < logits / 5).float().mean() > 0.99, (stem, part)


def check_detections(post: nn.Module, name: str) -> None:
    """Detections of the recorded outputs, which are whole for the batch without padding."""
    arrays, _ = load_golden(f"detr/{name}_eval.npz")
    recorded = Predictions(*(torch.from_numpy(arrays[key]) for key in ("pred_logits", "pred_boxes")))
    detections = post(recorded, torch.from_numpy(arrays["orig_target_sizes_hw"]).flip(1))
    assert torch.equal(detections.labels, torch.from_numpy(arrays["post_labels"]).long())
    torch.testing.assert_close(detections.boxes, torch.from_numpy(arrays["post_boxes"]), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(detections.scores, torch.from_numpy(arrays["post_scores"]), rtol=1e-5, atol=1e-6)


def step_case(name: str) -> tuple[Arrays, dict[str, Any], dict[str, Tensor | None], Targets]:
    """Arrays and meta of a recorded training step (``dab_r50_train_nodn``), the model's arguments and the targets."""
    arrays, meta = load_golden(f"detr/{name}.npz")
    targets = [
        {"labels": torch.from_numpy(arrays[f"target/{image}_labels"]).long(),
         "boxes": torch.from_numpy(arrays[f"target/{image}_boxes"])}
        for image in range(len(meta["counts"]))
    ]  # fmt: skip
    return arrays, meta, _batch(meta["image_seeds"], meta["sizes_hw"], padded=True), targets


def check_step(
    model: nn.Module,
    objective: Callable[[DetectorOutput, Targets], dict[str, Tensor]],
    matcher: HungarianMatcher,
    name: str,
    *,
    by_rank: bool = False,
) -> DetectorOutput:
    """A recorded training step: outputs and matches of all sets, losses and gradient norms of a filled model.

    Denoising draws are the caller's to put in.
    """
    arrays, meta, batch, targets = step_case(name)
    output: DetectorOutput = model.train()(**batch, targets=targets)
    places = _places(output, arrays, "topk_index", by_rank)
    for key, one in sets_of(output).items():
        of_matching = places if not key.startswith("dn") and key != "enc" else None
        if f"out/{key}_boxes" in arrays:
            _check_set(one, arrays, f"out/{key}_", of_matching, 2e-3, 5e-5)
        if f"match/{key}" in arrays:
            assert _pairs(matcher, one, targets, of_matching, key) == set(map(tuple, arrays[f"match/{key}"].tolist()))
    losses = objective(output, targets)
    # The published code names the losses of denoising as zeros where there is none.
    named = {our_loss(key): value for key, value in meta["losses_weighted"].items()}
    wanted = {key: value for key, value in named.items() if value or key in losses}
    assert set(losses) == set(wanted)
    for key, value in wanted.items():
        assert losses[key].item() == pytest.approx(value, rel=2e-4, abs=1e-6), key
    total = sum(losses.values(), torch.zeros(()))
    assert total.item() == pytest.approx(meta["total"], rel=2e-4)
    total.backward()
    check_gradients(model, name)
    return output


def _pairs(
    matcher: HungarianMatcher, one: Predictions, targets: Targets, places: Tensor | None, key: str
) -> set[tuple[int, ...]]:
    """(image, query, target) of a set, queries under their recorded numbers."""
    if key == "enc":
        targets = [{**each, "labels": torch.zeros_like(each["labels"])} for each in targets]
    number = None if places is None else places.argsort(dim=1)
    return {
        (image, int(query if number is None else number[image, query]), int(target))
        for image, of_image in enumerate(matcher(one, targets))
        for query, target in zip(*of_image)
    }


def sets_of(output: DetectorOutput) -> dict[str, Predictions]:
    """Prediction sets under the names of the fixtures."""
    sets = _layers(output.layers, "")
    if output.proposals is not None:
        sets["enc" if output.binary_proposals else "interm"] = output.proposals
    for group in output.groups.values():
        sets |= _layers(group.layers, "dn_")
        sets |= {f"dn{index}": one for index, one in enumerate(group.layers)}  # DN-DETR's names
    return sets


def _layers(layers: list[Predictions], prefix: str) -> dict[str, Predictions]:
    last = len(layers) - 1
    return {f"{prefix}aux{index}" if index < last else f"{prefix}last": one for index, one in enumerate(layers)}


def our_loss(theirs: str, last: int = 5) -> str:
    """Our name of a published loss: ``loss_ce_dn_2``, ``tgt_loss_ce_2`` -> ``loss_focal_dn_2``, ``loss_ce_enc``."""
    stem, _, rest = theirs.removeprefix("tgt_").removeprefix("loss_").partition("_")
    denoising = theirs.startswith("tgt_") or rest.startswith("dn")
    rest = rest.removeprefix("dn").removeprefix("_")
    if denoising:
        suffix = f"_dn_{rest or last}"
    elif rest in ("enc", "interm"):
        suffix = "_enc_0"
    else:
        suffix = f"_aux_{rest}" if rest else ""
    return f"loss_{'focal' if stem == 'ce' else stem}{suffix}"


def check_gradients(model: nn.Module, name: str) -> None:
    """Norms of all parameters after a recorded step, and which have none."""
    facts = load_json(f"detr/{name}_grads.json")
    norms = facts["grad_norm"]
    largest = max(norm for norm in norms.values() if norm is not None)
    state = model.state_dict(keep_vars=True)
    for key, norm in norms.items():
        if norm or (norm == 0 and key in state):  # what does not take part may be missing here
            gradient = state[key].grad
            assert gradient is not None, key
            assert abs(gradient.norm().item() - norm) <= 1e-2 * norm + 1e-4 * largest, key
