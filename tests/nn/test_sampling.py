# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from golden_cases import fill, load_golden
from isdfine.nn.sampling import DeformableAttention, points_per_level, sample_bilinear, sample_nearest

CASES = ["default_list", "default_int4", "two_levels", "discrete_square"]


def build(case: str) -> tuple[DeformableAttention, dict[str, torch.Tensor], dict]:
    arrays, meta = load_golden("msdeform.npz")
    setting = meta["cases"][case]
    shapes = setting["spatial_shapes_hw"]
    attention = DeformableAttention(
        setting["embed_dim"], setting["heads"], len(shapes), setting["num_points"], method=setting["method"]
    )
    got = {name: torch.from_numpy(value) for name, value in arrays.items() if name.startswith(case + "/")}
    got = {name.removeprefix(case + "/"): value for name, value in got.items()}
    assert {key: list(tensor.shape) for key, tensor in attention.state_dict().items()} == setting["keys"]
    torch.testing.assert_close(attention.sampling_offsets.bias.detach(), got.get("init_offset_bias"), atol=1e-6, rtol=0)
    torch.testing.assert_close(attention.num_points_scale, got["num_points_scale"], atol=0, rtol=0)
    assert {key: parameter.requires_grad for key, parameter in attention.named_parameters()} == setting["requires_grad"]
    for key, parameter in attention.named_parameters():
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(fill.fill_array(meta["key_prefix"] + key, parameter.shape)))
    return attention, got, setting


def run(attention: DeformableAttention, got: dict[str, torch.Tensor], setting: dict):
    query = got["query"].requires_grad_()
    stored = [got[f"value_{i}"].requires_grad_() for i in range(len(setting["spatial_shapes_hw"]))]
    maps = [rows.flatten(1, 2).unflatten(2, size) for rows, size in zip(stored, setting["spatial_shapes_hw"])]
    return query, stored, attention(query, got["ref"].squeeze(2), maps)


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    attention, got, setting = build(case)
    query, stored, out = run(attention, got, setting)
    torch.testing.assert_close(out, got["out"], atol=2e-5, rtol=1e-4)
    out.backward(got["cotangent"])
    torch.testing.assert_close(query.grad, got["grad_query"], atol=2e-5, rtol=1e-4)
    for i, value in enumerate(stored):
        torch.testing.assert_close(value.grad, got[f"grad_value_{i}"], atol=2e-5, rtol=1e-4)
    for key, parameter in attention.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, got["grad/" + key], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_sampling_points_are_where_forward_reads(case: str) -> None:
    """What is read there, weighted and summed, is the answer of ``forward``."""
    attention, got, setting = build(case)
    query, _, out = run(attention, got, setting)
    points, weights = attention.sampling_points(query, got["ref"].squeeze(2))
    batch, heads, queries, count = weights.shape
    assert points.shape == (batch, heads, queries, count, 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(batch, heads, queries))
    shapes = setting["spatial_shapes_hw"]
    maps = [got[f"value_{i}"].flatten(1, 2).unflatten(2, size) for i, size in enumerate(shapes)]
    sampler = sample_nearest if setting["method"] == "discrete" else sample_bilinear
    total = torch.zeros_like(out)
    for head in range(heads):
        parts = zip(maps, *(tensor[:, head].split(attention.num_points, dim=2) for tensor in (points, weights)))
        channels = slice(head * out.shape[-1] // heads, (head + 1) * out.shape[-1] // heads)
        for values, places, shares in parts:
            read = sampler(values[:, channels], places)  # (B, D / heads, Q, P)
            total[..., channels] += (read * shares[:, None]).sum(-1).mT
    torch.testing.assert_close(total, out, atol=2e-5, rtol=1e-4)


def test_discrete_reads_the_whole_width() -> None:
    """Upstream keeps x below the height; we keep it below the width (docs/method.md 11.2)."""
    values = torch.arange(8.0).view(1, 1, 2, 4)
    locations = torch.tensor([[0.99, 0.99], [0.0, 0.0], [5.0, -5.0], [0.4, 0.2]]).view(1, 1, 4, 2)
    assert sample_nearest(values, locations).flatten().tolist() == [7.0, 0.0, 3.0, 2.0]


def test_bilinear_by_hand() -> None:
    values = torch.tensor([[0.0, 4.0], [8.0, 12.0]]).view(1, 1, 2, 2)
    locations = torch.tensor([[0.25, 0.25], [0.5, 0.25], [0.5, 0.5], [0.0, 0.25], [3.0, 0.5]]).view(1, 1, 5, 2)
    assert sample_bilinear(values, locations).flatten().tolist() == [0.0, 2.0, 6.0, 0.0, 0.0]


@pytest.mark.parametrize("method", ["default", "discrete"])
def test_batch_of_two_is_two_batches_of_one(method: str) -> None:
    torch.manual_seed(1)
    attention = DeformableAttention(8, 2, 2, [2, 1], method=method)
    torch.nn.init.normal_(attention.attention_weights.weight)
    queries, references = torch.randn(2, 5, 8), torch.rand(2, 5, 4)
    values = [torch.randn(2, 8, 3, 5), torch.randn(2, 8, 2, 3)]
    both = attention(queries, references, values)
    for i in range(2):
        one = attention(queries[i : i + 1], references[i : i + 1], [value[i : i + 1] for value in values])
        torch.testing.assert_close(one[0], both[i])


def test_channels_last_maps_give_the_same() -> None:
    attention = DeformableAttention(8, 2, 1, 3)
    queries, references, value = torch.randn(2, 5, 8), torch.rand(2, 5, 4), torch.randn(2, 8, 4, 6)
    torch.testing.assert_close(
        attention(queries, references, [value.contiguous(memory_format=torch.channels_last)]),
        attention(queries, references, [value]),
    )


def test_offsets_start_as_rays() -> None:
    bias = DeformableAttention(16, 4, 2, [1, 2]).sampling_offsets.bias.detach().view(4, 3, 2)
    rays = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    want = np.stack([rays * step for step in (1, 1, 2)], axis=1)
    np.testing.assert_allclose(bias.numpy(), want, atol=1e-6)
    diagonal = DeformableAttention(64, 8, 1, 1).sampling_offsets.bias.detach()[2:4]
    torch.testing.assert_close(diagonal, torch.ones(2))  # the larger component is 1, not the length


def test_messages() -> None:
    with pytest.raises(ValueError, match="10 channels do not split into 4 heads: change hidden_dim or nhead"):
        DeformableAttention(10, 4, 1, 1)
    with pytest.raises(
        ValueError, match=r"cross_attn_method 'exact' is unknown: choose one of \['default', 'discrete'\]"
    ):
        DeformableAttention(8, 4, 1, 1, method="exact")
    with pytest.raises(ValueError, match=r"num_points \[3, 6\] must hold one positive number for each of the 3 levels"):
        points_per_level([3, 6], 3)
    assert points_per_level(4, 2) == [4, 4]


@pytest.mark.parametrize("method", ["default", "discrete"])
def test_references_are_fractions_of_what_the_valid_ratios_say(method: str) -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, 2, [2, 3], method=method)
    queries, references = torch.randn(2, 5, 8), torch.rand(2, 5, 4)
    tight = [torch.randn(2, 8, 4, 6), torch.randn(2, 8, 2, 3)]
    wide = [
        torch.nn.functional.pad(feature_map, (0, feature_map.shape[3], 0, feature_map.shape[2] // 2))
        for feature_map in tight
    ]
    valid_ratios = torch.tensor([0.5, 1 / 1.5]).expand(2, 2, 2)  # twice as wide, one and a half times as high
    expected = attention(queries, references, tight)
    torch.testing.assert_close(attention(queries, references, wide, valid_ratios), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(attention(queries, references, tight, torch.ones(2, 2, 2)), expected, atol=0, rtol=0)
    assert not torch.allclose(attention(queries, references, wide), expected, atol=1e-3)


def test_points_are_offset_in_cells() -> None:
    """A reference point takes offsets in cells of each level's map; on a padded map only the point is scaled."""
    attention = DeformableAttention(4, 1, 2, [1, 2])
    with torch.no_grad():
        attention.sampling_offsets.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 2.0, -1.0, 1.0]))
    points, sizes = torch.tensor([[[0.5, 0.25]]]), [(4, 8), (2, 4)]
    locations, weights = attention.sampling_points(torch.zeros(1, 1, 4), points, sizes)
    assert locations[0, 0, 0].tolist() == [[0.5 + 1 / 8, 0.25], [0.5, 0.25 + 2 / 2], [0.5 - 1 / 4, 0.25 + 1 / 2]]
    assert weights.flatten().tolist() == pytest.approx([1 / 3] * 3)
    valid_ratios = torch.tensor([[[0.5, 1.0], [0.5, 1.0]]])
    padded = attention._points(torch.zeros(1, 1, 4), torch.zeros(1, 1, 1, 3), points, valid_ratios, sizes)[0]
    assert padded[0, 0, 0, 0].tolist() == [0.25 + 1 / 8, 0.25]
    values = [torch.randn(1, 4, *size) for size in sizes]
    read = attention.eval()(torch.zeros(1, 1, 4), points, values)
    grids = [2 * part - 1 for part in locations[:, 0].split([1, 2], dim=2)]
    expected = torch.cat(
        [torch.nn.functional.grid_sample(level, grid, align_corners=False) for level, grid in zip(values, grids)], dim=3
    )
    torch.testing.assert_close(read[0, 0], expected[0, :, 0].mean(dim=1))
