# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of Deformable-DETR and DINO against the official code: attention with a reference per level, proposals."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill_detr
from isdfine.nn.boxes import inverse_sigmoid
from isdfine.nn.padding import Padding
from isdfine.nn.sampling import DeformableAttention
from isdfine.zoo.queries import Memory, TopKQueries, anchor_logits
from unit_cases import close, draws, unit_cases

FAMILIES = {"deformable": 1e-5, "dino": 1e-3}
"""Of each the smallest number of its logit function."""
families = pytest.mark.parametrize("family", FAMILIES)


def filled(module: nn.Module, names: dict[str, str]) -> nn.Module:
    """A module with the weights of the fixtures, under the names that these have there."""
    state = module.state_dict()
    drawn = fill_detr.fill_state_dict({name: state[key] for key, name in names.items()})
    module.load_state_dict({**state, **{key: drawn[name] for key, name in names.items()}})
    return module


def paddings(arrays: dict[str, np.ndarray], sizes: list[tuple[int, int]]) -> list[Padding]:
    """One per level: the recorded mask's levels are not those of one canvas."""
    masks = torch.from_numpy(arrays["msdeform/mask"]).split([height * width for height, width in sizes], dim=1)
    found = []
    for mask, size in zip(masks, sizes):
        inside = ~mask.unflatten(1, size)
        contents = torch.stack((inside[:, :, 0].sum(1), inside[:, 0].sum(1)), dim=1)
        found.append(Padding(contents, size, whole_cells=True))
    return found


def read_each(
    attention: DeformableAttention, query: Tensor, references: Tensor, maps: list[Tensor], ratios: Tensor
) -> Tensor:
    """What is read with references (B, Q, levels, 2 or 4) of the levels' own, fractions of the maps.

    Here one reference serves all levels, times their valid ratios, and that is what the official models do. So every
    level is read with its own while the image spans nothing of the others, which are zero then, and reads are added.
    """
    reads = []
    for level in range(len(maps)):
        spans = ratios * (torch.arange(len(maps)) == level)[:, None]
        span = ratios[:, None, level]
        reference = references[:, :, level] / span.repeat(1, 1, references.shape[-1] // 2)
        reads.append(attention(query, reference, maps, spans) - attention.output_proj.bias)
    return torch.stack(reads).sum(0) + attention.output_proj.bias


@families
@pytest.mark.parametrize("numbers", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_attention_with_a_reference_per_level(family: str, numbers: int, masked: bool, train: bool) -> None:
    """In both forms, by maps and, in training on a CPU, by tables."""
    arrays, described = unit_cases(family)
    facts, case = described["msdeform"], f"msdeform/ref{numbers}{'_mask' if masked else ''}/"
    sizes = [(height, width) for height, width in facts["levels_hw"]]
    attention = DeformableAttention(facts["d"], facts["heads"], len(sizes), facts["points"], projections=True)
    filled(attention, {key: facts["key_prefix"] + key for key, _ in attention.named_parameters()})
    cells = [height * width for height, width in sizes]
    query, value = draws(10, (2, 6, 64)).requires_grad_(), draws(11, (2, sum(cells), 64)).requires_grad_()
    references = draws(12, (2, 6, 4, numbers), "uniform")
    references = torch.cat((references[..., :2], 0.05 + 0.5 * references[..., 2:]), -1)
    maps = [part.mT.unflatten(2, size) for part, size in zip(value.split(cells, dim=1), sizes)]
    ratios = torch.ones(2, len(sizes), 2)
    if masked:
        levels = zip(paddings(arrays, sizes), sizes)
        ratios = torch.cat([padding.valid_ratios([size]) for padding, size in levels], dim=1)
    result = read_each(attention.train(train), query, references, maps, ratios)
    result.square().sum().backward()
    close(result.detach(), arrays[f"{case}out"])
    for leaf, name in ((query, "grad_query"), (value, "grad_value")):
        assert leaf.grad is not None
        close(leaf.grad, arrays[case + name], atol=2e-4)
    for name, weight in attention.named_parameters():
        assert weight.grad is not None
        assert weight.grad.norm().item() == pytest.approx(described[case]["grad_norm"][name], rel=1e-4), name


@families
def test_proposals_of_a_padded_memory(family: str) -> None:
    arrays, described = unit_cases(family)
    sizes = [(height, width) for height, width in described["msdeform"]["levels_hw"]]
    levels = paddings(arrays, sizes)
    padding: Any = SimpleNamespace(
        centres=lambda sizes: [level.centres([size])[0] for level, size in zip(levels, sizes)],
        mask=lambda size: levels[sizes.index(size)].mask(size),
    )
    anchors, _ = anchor_logits(sizes, padding=padding)
    close(anchors, arrays["proposals/anchors_unact"])
    tokens, queries = draws(13, (2, 108, 16)), TopKQueries(5, 16, 3)
    parts = {"proj": "unit.transformer.enc_output", "norm": "unit.transformer.enc_output_norm"}
    names = {f"{part}.{kind}": f"{stem}.{kind}" for part, stem in parts.items() for kind in ("weight", "bias")}
    filled(queries.project, names)
    seen: list[Tensor] = []
    queries.project.register_forward_hook(lambda _, read, rows: seen.extend((read[0], rows.detach())))
    maps = [part.mT.unflatten(2, size) for part, size in zip(tokens.split([h * w for h, w in sizes], dim=1), sizes)]
    queries(Memory.of(maps, padding))
    close(seen[family == "deformable"], arrays["proposals/memory_out"])  # DINO recorded what its projection reads


@families
def test_logits_of_fractions(family: str) -> None:
    arrays, _ = unit_cases(family)
    fractions = torch.from_numpy(arrays["inverse_sigmoid/x"]).requires_grad_()
    logits = inverse_sigmoid(fractions, FAMILIES[family])
    logits.sum().backward()
    close(logits.detach(), arrays["inverse_sigmoid/y"])
    assert fractions.grad is not None
    close(fractions.grad, arrays["inverse_sigmoid/grad"])
