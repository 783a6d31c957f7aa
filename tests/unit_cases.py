# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The unit fixtures of golden/detr: their made-up inputs, and how criteria and matches are compared with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_cases import fill_detr, load_golden
from isdfine.losses.matched import tabulate
from isdfine.losses.matcher import HungarianMatcher
from isdfine.losses.sets import stack_sets
from isdfine.nn.types import Predictions
from isdfine.zoo.denoising import DenoisingNoise

BASE = 1000
Targets = list[dict[str, Tensor]]


def unit_cases(family: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays of one family's unit file, and what describes its cases."""
    arrays, meta = load_golden(f"detr/units_{family}.npz")
    return arrays, meta["cases"]


def draws(seed: int, shape: tuple[int, ...], kind: str = "normal") -> Tensor:
    """Inputs as the fixtures drew them."""
    return torch.from_numpy(fill_detr.draws(BASE + seed, shape, kind))


def close(got: Tensor, wanted: np.ndarray, atol: float = 2e-5) -> None:
    """Compare with a fixture within the tolerance of units."""
    torch.testing.assert_close(got, torch.from_numpy(wanted).to(got.dtype), atol=atol, rtol=1e-4)


def synthetic_sets(counts: Sequence[int]) -> tuple[list[Predictions], Targets, list[Tensor]]:
    """Three sets of 12 queries, targets of this many boxes, and the leaves: logits and boxes of each set."""
    leaves: list[Tensor] = []
    for index in range(3):
        logits = draws(300 + index, (len(counts), 12, 7)) * 1.5 - 1
        uniform = draws(350 + index, (len(counts), 12, 4), "uniform")
        sizes = 0.03 + 0.37 * uniform[..., 2:]
        boxes = torch.cat((sizes / 2 + (1 - sizes) * uniform[..., :2], sizes), -1)
        leaves += [logits.requires_grad_(), boxes.requires_grad_()]
    truth = fill_detr.random_targets(BASE + 30, counts, 7)
    targets = [{key: torch.from_numpy(value) for key, value in one.items()} for one in truth]
    return [Predictions(*pair) for pair in zip(leaves[::2], leaves[1::2])], targets, leaves


def check_losses(losses: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Weighted losses under their recorded names, and their sum."""
    for key, value in facts["losses_weighted"].items():
        assert losses[key].item() == pytest.approx(value, rel=1e-5, abs=1e-6), key
    assert sum(losses.values()).item() == pytest.approx(facts["total"], rel=1e-5)


def check_gradients(
    losses: Mapping[str, Tensor],
    leaves: Sequence[Tensor],
    arrays: Mapping[str, np.ndarray],
    prefix: str,
    *,
    unused: Sequence[Tensor] = (),
) -> None:
    """Gradients of the sum, of all leaves but the unused ones."""
    sum(losses.values(), torch.zeros(())).backward()
    for place, leaf in enumerate(leaves):
        if any(leaf is one for one in unused):
            assert leaf.grad is None
            continue
        assert leaf.grad is not None
        close(leaf.grad, arrays[f"{prefix}grad_{('logits', 'boxes')[place % 2]}{place // 2}"])


def check_matches(
    matcher: HungarianMatcher,
    sets: Sequence[Predictions],
    targets: Targets,
    arrays: Mapping[str, np.ndarray],
    prefix: str,
    *,
    binary: int | None = None,
) -> None:
    """Matches of every recorded set, and the last one's costs; set number ``binary`` knows one class."""
    for call, index in enumerate((2, 0, 1)):  # the official code matches the last layer first
        if f"{prefix}match_call{call}" not in arrays:
            continue
        truth = [{**one, "labels": one["labels"] * (index != binary)} for one in targets]
        pairs = {
            (image, int(query), int(target))
            for image, matched in enumerate(matcher(sets[index], truth))
            for query, target in zip(*matched)
        }
        assert pairs == {tuple(pair) for pair in arrays[f"{prefix}match_call{call}"].tolist()}
    if f"{prefix}cost_last_image0" in arrays:
        stack = stack_sets([("", sets[2])], 1)
        table = tabulate(targets, stack.batch, stack.boxes.device)
        costs = matcher.cost(stack, table)[0].split(list(table.counts))
        for image, cost in enumerate(costs):
            close(cost.mT, arrays[f"{prefix}cost_last_image{image}"])


def recorded_noise(arrays: Mapping[str, Tensor], targets: Targets, copies: int, probability: float) -> DenoisingNoise:
    """The draws of DINO (4) or DN-DETR (3) as ours, which are for every slot of every image.

    Theirs are for real boxes alone, copy by copy through the batch; of the classes they draw those that they need.

    Args:
        arrays: the recorded draws, whose names begin with ``draw`` or ``dn_draw/``.
        targets: of the batch.
        copies: how many times every box stands in an image, twice the groups where there are negatives.
        probability: that a label is redrawn.
    """
    flip, needed, *moves = (arrays[key] for key in sorted(arrays) if key.startswith(("draw", "dn_draw/")))
    labels = torch.zeros_like(flip, dtype=torch.int64)
    labels[flip < probability] = needed
    if len(moves) == 1:  # DN-DETR draws how far and to which side in one
        signed = 2 * moves[0] - 1
        moves = [(signed > 0).long(), signed.abs()]
    return DenoisingNoise(*(_of_slots(draw, targets, copies) for draw in (flip, labels, *moves)))


def _of_slots(draw: Tensor, targets: Targets, copies: int) -> Tensor:
    counts = [len(target["labels"]) for target in targets]
    slots = draw.new_zeros(len(targets), copies, max(counts), *draw.shape[1:])
    for image, drawn in enumerate(draw.unflatten(0, (copies, sum(counts))).split(counts, dim=1) if copies else ()):
        slots[image, :, : counts[image]] = drawn
    return slots.flatten(1, 2)
