# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill, load_golden
from isdfine.nn.queries import join_groups
from isdfine.nn.types import QueryGroup
from isdfine.zoo.denoising import DenoisingNoise, DenoisingSetting, denoising_group, draw_noise, layout

CASES = [
    "basic",
    "one_empty",
    "all_empty",
    "more_gt_than_dn",
    "single",
    "no_label_noise",
    "small_box_noise",
    "one_class",
    "group2",
]


def recorded_noise(draws: list[Tensor], kinds: list[str]) -> DenoisingNoise:
    """The fixture keeps only the draws that were made; the first two are those of the labels."""
    labels = draws[:2] if len(kinds) == 4 else [None, None]
    boxes = draws[-2:] if kinds else [None, None]
    return DenoisingNoise(*labels, *boxes)


def golden_group(case: str) -> tuple[QueryGroup, dict[str, np.ndarray], dict]:
    arrays, meta = load_golden("dfine_dn.npz")
    setting = meta["cases"][case]
    got = {name.removeprefix(case + "/"): value for name, value in arrays.items() if name.startswith(case + "/")}
    targets = [
        {key: torch.from_numpy(got[f"{key}_{i}"]) for key in ("labels", "boxes")} for i in range(len(setting["counts"]))
    ]
    embedding = nn.Embedding(setting["num_classes"] + 1, setting["hidden_dim"], padding_idx=setting["num_classes"])
    rows = fill.fill_array("denoising_class_embed.weight", embedding.weight.shape, meta["salt"])
    embedding.load_state_dict({"weight": torch.from_numpy(rows)})
    kinds = setting["draw_kinds"]
    noise = recorded_noise([torch.from_numpy(got[f"draw_{i}"]) for i in range(len(kinds))], kinds)
    keys = ("num_denoising", "label_noise_ratio", "box_noise_scale")
    return denoising_group(targets, noise, embedding, DenoisingSetting(**{k: setting[k] for k in keys})), got, setting


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    group, got, setting = golden_group(case)
    assert group.repeats == setting["dn_num_group"]
    assert group.content.shape[1] == setting["dn_num_split"][0]
    if case == "all_empty":
        return
    assert torch.equal(group.content.detach(), torch.from_numpy(got["content"]))
    torch.testing.assert_close(group.reference_logits, torch.from_numpy(got["bbox_unact"]), atol=2e-3, rtol=1e-4)
    side = setting["attn_mask_shape"][0]
    want = np.unpackbits(got["attn_mask_packed"])[: side * side].reshape(side, side).astype(bool)
    content = torch.zeros(len(group.content), setting["num_queries"], 16)
    matching = QueryGroup("", content, content[..., :4])
    assert torch.equal(join_groups([group, matching]).attn_mask, torch.from_numpy(want))
    rows = []
    for image, assigned in enumerate(group.assigned):
        positive = (assigned >= 0).nonzero().squeeze(1)
        assert torch.equal(positive, torch.from_numpy(got[f"positive_idx_{image}"]))
        rows += [(image, int(query), int(assigned[query])) for query in positive]
    assert sorted(rows) == sorted(map(tuple, got["matched"].tolist()))


def test_draws_are_made_in_the_official_order() -> None:
    setting = DenoisingSetting(100, 0.5, 1.0)
    torch.manual_seed(3)
    noise = draw_noise(2, 6, 5, setting, torch.device("cpu"))
    torch.manual_seed(3)
    assert torch.equal(noise.flip, torch.rand(2, 6))
    assert torch.equal(noise.labels, torch.randint(0, 5, (2, 6)))
    assert torch.equal(noise.signs, torch.randint(0, 2, (2, 6, 4)))
    assert torch.equal(noise.shifts, torch.rand(2, 6, 4))


def test_layout() -> None:
    assert layout([3, 5], 100) == (20, 5)
    assert layout([120, 7], 100) == (1, 120)
    assert layout([0, 0], 100) == (0, 0)


def test_without_noise_positives_are_the_truth() -> None:
    targets = [
        {"labels": torch.tensor([1, 0]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.3, 0.2, 0.2]])},
        {"labels": torch.tensor([2]), "boxes": torch.tensor([[0.6, 0.4, 0.1, 0.1]])},
    ]
    setting = DenoisingSetting(4, 0.0, 0.0)
    embedding = nn.Embedding(4, 8, padding_idx=3)
    noise = draw_noise(2, 8, 3, setting, torch.device("cpu"))
    assert noise == DenoisingNoise(None, None, None, None)
    group = denoising_group(targets, noise, embedding, setting)
    assert group.assigned.tolist() == [[0, 1, -1, -1, 0, 1, -1, -1], [0, -1, -1, -1, 0, -1, -1, -1]]
    assert group.padding.tolist() == [[False] * 8, [False, True] * 4]
    torch.testing.assert_close(group.reference_logits[0, :2].sigmoid(), targets[0]["boxes"])
    assert torch.equal(group.content[0, 4], embedding.weight[1])
    assert not group.content[group.padding].any()


def test_batch_without_boxes_still_reaches_the_table() -> None:
    targets = [{"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}] * 2
    setting, embedding = DenoisingSetting(100, 0.5, 1.0), nn.Embedding(4, 8, padding_idx=3)
    group = denoising_group(targets, draw_noise(2, 0, 3, setting, torch.device("cpu")), embedding, setting)
    assert group.content.shape == (2, 0, 8)
    assert group.repeats == 0
    torch.cat((group.content, torch.zeros(2, 3, 8)), dim=1).sum().backward()
    assert embedding.weight.grad is not None
    assert not embedding.weight.grad.any()


def test_labels_outside_the_head_are_left_to_the_matcher_and_boxes_may_be_flat_when_empty() -> None:
    setting, embedding = DenoisingSetting(4, 0.5, 1.0), nn.Embedding(4, 8, padding_idx=3)
    targets = [
        {"labels": torch.tensor([9, -1]), "boxes": torch.full((2, 4), 0.5)},
        {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0)},
    ]
    group = denoising_group(targets, draw_noise(2, 8, 3, setting, torch.device("cpu")), embedding, setting)
    assert group.padding is not None
    assert not group.padding[0].any()
    assert group.padding[1].all()
    assert group.assigned is not None
    assert group.assigned.tolist() == [[0, 1, -1, -1] * 2, [-1] * 8]


def test_messages() -> None:
    with pytest.raises(ValueError, match=r"num_denoising must be 0 \(off\) or more, got -1"):
        DenoisingSetting(-1, 0.5, 1.0)
    with pytest.raises(ValueError, match=r"label_noise_ratio must be between 0 and 1, got 1.5"):
        DenoisingSetting(1, 1.5, 1.0)
    with pytest.raises(ValueError, match=r"box_noise_scale must be 0 \(off\) or more, got -0.1"):
        DenoisingSetting(1, 0.5, -0.1)
