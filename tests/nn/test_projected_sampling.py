# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import torch

from golden_cases import fill
from isdfine.nn.padding import Padding
from isdfine.nn.sampling import DeformableAttention


def attention(**more: object) -> DeformableAttention:
    torch.manual_seed(0)
    made = DeformableAttention(8, 2, 2, [2, 1], projections=True, **more)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def inputs() -> tuple:
    torch.manual_seed(1)
    return torch.randn(2, 5, 8), torch.rand(2, 5, 4), [torch.randn(2, 8, 6, 4), torch.randn(2, 8, 3, 2)]


def test_it_is_the_plain_attention_between_two_linear_maps() -> None:
    one = attention()
    queries, references, values = inputs()
    plain = DeformableAttention(8, 2, 2, [2, 1])
    plain.load_state_dict({key: value for key, value in one.state_dict().items() if "_proj." not in key})
    mapped = [one.value_proj(value.movedim(1, -1)).movedim(-1, 1) for value in values]
    want = one.output_proj(plain(queries, references, mapped))
    torch.testing.assert_close(one(queries, references, values), want)


def test_names_and_start_values() -> None:
    made = DeformableAttention(8, 2, 2, 3, projections=True)
    assert {name.split(".")[0] for name, _ in made.named_parameters()} == {
        "sampling_offsets",
        "attention_weights",
        "value_proj",
        "output_proj",
    }
    assert not made.value_proj.bias.any()
    assert not made.output_proj.bias.any()
    assert made.value_proj.weight.abs().max() <= (6 / 16) ** 0.5


def test_gradients_reach_everything() -> None:
    one = fill.fill_module(attention())
    one(*inputs()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in one.parameters())


def test_cells_in_the_padding_stay_zero_whatever_the_bias() -> None:
    """A bias would fill the padding, and the border of the image reads one cell beyond it."""
    one = attention()
    queries, references, _ = inputs()
    torch.manual_seed(2)
    content = [torch.randn(2, 8, 4, 3), torch.randn(2, 8, 2, 2)]  # 61 x 41 pixels at strides 16 and 32
    results = []
    for canvas in ((64, 64), (96, 64), (128, 160)):
        sizes = [(canvas[0] // stride, canvas[1] // stride) for stride in (16, 32)]
        maps = [torch.zeros(2, 8, *size) for size in sizes]
        for full, inside in zip(maps, content):
            full[..., : inside.shape[2], : inside.shape[3]] = inside
        valid_ratios = Padding(torch.tensor([[61, 41], [61, 41]]), canvas).valid_ratios(sizes)
        results.append(one(queries, references, maps, valid_ratios))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_content_that_ends_with_a_cell_leaves_the_next_one_out() -> None:
    """40 of 64 pixels are exactly 5 cells of stride 8: rounding must not let in the sixth."""
    one = attention()
    queries, references, _ = inputs()
    torch.manual_seed(2)
    wide = [torch.randn(2, 8, 5, 5), torch.randn(2, 8, 3, 3)]
    results = []
    for canvas in ((40, 40), (64, 64), (88, 72)):
        sizes = [(-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in (8, 16)]
        maps = [torch.zeros(2, 8, *size) for size in sizes]
        for full, inside in zip(maps, wide):
            full[..., : inside.shape[2], : inside.shape[3]] = inside
        valid_ratios = Padding(torch.tensor([[40.0, 40.0]] * 2), canvas).valid_ratios(sizes)
        results.append(one(queries, references, maps, valid_ratios))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_values_are_sampled_in_float32_under_autocast() -> None:
    one = attention()
    queries, references, values = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = one(queries, references, values)
    torch.testing.assert_close(mixed.float(), one(queries, references, values), atol=0.2, rtol=0.1)
