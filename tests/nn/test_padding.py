# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from golden_cases import load_golden
from isdfine.nn.padding import Padding, cleared, cleared_reads, image_sizes_of


def padding(*contents: tuple[float, float], canvas: tuple[int, int] = (288, 384)) -> Padding:
    return Padding(torch.tensor(contents), canvas)


def kept(one: Padding, size: tuple[int, int], image: int = 0) -> tuple[int, int]:
    """Rows and columns that are kept; they form one block at the top left."""
    mask = ~one.mask(size)[image, 0]
    rows, columns = int(mask[:, 0].sum()), int(mask[0].sum())
    assert mask[:rows, :columns].all()
    assert int(mask.sum()) == rows * columns
    return rows, columns


def test_a_cell_is_kept_if_it_holds_any_content() -> None:
    one = padding((277, 370), (256, 1))
    assert one.mask((9, 12)).shape == (2, 1, 9, 12)
    assert [kept(one, (288 // s, 384 // s)) for s in (1, 2, 4, 32)] == [(277, 370), (139, 185), (70, 93), (9, 12)]
    assert [kept(one, (288 // s, 384 // s), 1) for s in (1, 2, 32)] == [(256, 1), (128, 1), (8, 1)]
    assert kept(padding((64.5, 64.0), canvas=(96, 96)), (3, 3)) == (3, 2)  # fractions of a pixel count


@pytest.mark.parametrize("canvas", [(288, 384), (320, 384), (352, 480)])
def test_kept_cells_and_centres_do_not_depend_on_the_canvas(canvas: tuple[int, int]) -> None:
    tight, wide = padding((277, 370)), padding((277, 370), canvas=canvas)
    for stride in (4, 8, 16, 32, 64):  # at 64 the map of 288 pixels has 5 cells, half a cell more than the canvas
        small, large = ([-(-side // stride) for side in sides] for sides in ((288, 384), canvas))
        assert kept(tight, tuple(small)) == kept(wide, tuple(large))
        for few, many in zip(tight.centres([tuple(small)])[0], wide.centres([tuple(large)])[0]):
            assert torch.equal(few, many[:, : few.shape[1]])
        pixels = tight.valid_ratios([tuple(small)]) * torch.tensor(small[::-1]) * stride
        torch.testing.assert_close(pixels, torch.tensor([[[370.0, 277.0]]]))
        torch.testing.assert_close(wide.valid_ratios([tuple(large)]) * torch.tensor(large[::-1]) * stride, pixels)


def test_strides_are_powers_of_two() -> None:
    assert [padding((1, 1)).stride(size) for size in ((288, 384), (9, 12), (5, 6), (3, 3))] == [1, 32, 64, 128]


def test_the_stride_of_maps_that_cannot_be_halved_further() -> None:
    strip, corner = padding((5, 20), canvas=(32, 160)), padding((5, 20), canvas=(32, 32))
    levels = [(32 // s, 160 // s) for s in (8, 16, 32)] + [(1, 3), (1, 2), (1, 1), (1, 1)]
    assert strip.level_strides(levels) == [8, 16, 32, 64, 128, 256, 512]
    assert corner.level_strides([(2, 2), (1, 1), (1, 1)]) == [16, 32, 64]
    for content, few, many in (
        (strip, levels[2:5], [(2, 5), (1, 3), (1, 2)]),
        (corner, [(1, 1)] * 3, [(2, 2), (1, 1)]),
    ):
        wide = padding((5, 20), canvas=(64, content.canvas[1] if content is strip else 64))
        for (y, x), (more_y, more_x) in zip(content.centres(few), wide.centres(many)):
            assert torch.equal(y, more_y[:, : y.shape[1]])
            assert torch.equal(x, more_x[:, : x.shape[1]])
        assert content.valid_ratios(few)[0, 1].tolist() == wide.valid_ratios(many)[0, 1].tolist()


def test_full_content_gives_the_plain_centres() -> None:
    ((y, x),) = padding((288, 384)).centres([(9, 12)])
    assert torch.equal(y[0], (torch.arange(9) + 0.5) / 9)
    assert torch.equal(x[0], (torch.arange(12) + 0.5) / 12)
    assert padding((288, 384)).valid_ratios([(9, 12), (18, 24)]).tolist() == [[[1, 1], [1, 1]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clear_zeroes_and_keeps_the_type(dtype: torch.dtype) -> None:
    one, maps = padding((40, 96), (64, 33), canvas=(64, 96)), torch.randn(2, 3, 2, 3).to(dtype)
    found = one.clear(maps)
    assert found.dtype == dtype
    assert torch.equal(found[0], maps[0])
    assert torch.equal(found[1, :, :, :2], maps[1, :, :, :2])
    assert not found[1, :, :, 2].any()
    assert one.clear(maps.contiguous(memory_format=torch.channels_last)).is_contiguous(
        memory_format=torch.channels_last
    )


@pytest.mark.parametrize("canvas", [(288, 384), (275, 391), (200, 100)])
def test_visible_masks_are_nearest_interpolations(canvas: tuple[int, int]) -> None:
    contents = torch.tensor([[199, 97], [160, 100], [128, 33], [1, 1]])
    one = Padding(contents, canvas, whole_cells=True, visible=True)
    pixels = torch.ones(4, 1, *canvas)
    for canvas_mask, (height, width) in zip(pixels, contents.tolist()):
        canvas_mask[:, :height, :width] = 0
    for stride in (4, 8, 16, 32, 64):
        size = (-(-canvas[0] // stride), -(-canvas[1] // stride))
        wanted = F.interpolate(pixels, size=size).bool()
        assert torch.equal(one.mask(size), wanted)
        columns, rows = (~wanted[:, 0, 0]).sum(1), (~wanted[:, 0, :, 0]).sum(1)
        torch.testing.assert_close(
            one.valid_ratios([size])[:, 0], torch.stack((columns / size[1], rows / size[0]), dim=1)
        )
        ((y, x),) = one.centres([size])
        torch.testing.assert_close(y[:, 0], 0.5 / rows)
        torch.testing.assert_close(x[:, -1], (size[1] - 0.5) / columns)


def test_whole_cells_are_the_official_ones() -> None:
    arrays, meta = load_golden("detr/units_deformable.npz")
    sizes = [(height, width) for height, width in meta["cases"]["msdeform"]["levels_hw"]]
    mask = torch.from_numpy(arrays["msdeform/mask"])  # (B, S), its levels are not those of one canvas
    ratios, centres = [], []
    for (height, width), cells in zip(sizes, mask.split([h * w for h, w in sizes], dim=1)):
        inside = ~cells.unflatten(1, (height, width))
        contents = torch.stack((inside[:, :, 0].sum(1), inside[:, 0].sum(1)), dim=1)
        one = Padding(contents, (height, width), whole_cells=True)
        ratios.append(one.valid_ratios([(height, width)])[:, 0])
        ((y, x),) = one.centres([(height, width)])
        centres.append(torch.stack((x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), dim=-1))
    torch.testing.assert_close(torch.stack(ratios, dim=1), torch.from_numpy(arrays["proposals/valid_ratio"]))
    points = torch.cat([level.flatten(1, 2) for level in centres], dim=1)[:, :, None] * torch.stack(ratios, 1)[:, None]
    torch.testing.assert_close(points, torch.from_numpy(arrays["proposals/encoder_reference_points"]))


@pytest.mark.parametrize("canvas", [(288, 384), (320, 384), (352, 480)])
def test_whole_cells_do_not_depend_on_the_canvas(canvas: tuple[int, int]) -> None:
    tight, wide = (Padding(torch.tensor([[277, 353]]), sides, whole_cells=True) for sides in ((288, 384), canvas))
    for stride in (8, 16, 32, 64):
        small, large = ((-(-sides[0] // stride), -(-sides[1] // stride)) for sides in ((288, 384), canvas))
        counts = torch.tensor([[-(-353 // stride), -(-277 // stride)]])
        for one, size in ((tight, small), (wide, large)):
            torch.testing.assert_close(one.valid_ratios([size])[:, 0] * torch.tensor(size[::-1]), counts.float())
        assert torch.equal(tight.centres([small])[0][0], wide.centres([large])[0][0][:, : small[0]])


def test_what_is_visible_stays() -> None:
    one, maps = Padding(torch.tensor([[5, 9]]), (8, 12), visible=True), torch.rand(1, 2, 8, 12)
    assert cleared(maps, one) is maps
    assert not one.clear(maps)[:, :, 5:].any()
    layer = nn.Conv2d(2, 3, 3, padding=1)
    with cleared_reads(layer, one):
        assert torch.equal(layer(maps), F.conv2d(maps, layer.weight, layer.bias, padding=1))


def test_without_padding_nothing_is_computed() -> None:
    maps = torch.randn(1, 2, 3, 4)
    assert cleared(maps, None) is maps


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.Conv2d(2, 3, (1, 3))]
)
def test_layers_of_a_network_read_cleared_maps_for_the_time_of_the_context(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Sequential(layer), nn.Identity())
    maps = torch.rand(1, 2, 8, 12) + 0.1
    noisy = maps.clone()
    noisy[:, :, 5:] = noisy[..., 9:] = 7
    one = padding((5, 9), canvas=(8, 12))
    with cleared_reads(network, one):
        found = network(noisy)
    assert torch.equal(found, network(one.clear(maps)))
    assert not torch.equal(found, network(noisy))
    with pytest.raises(RuntimeError, match="expected input"), cleared_reads(network, one):
        nn.Conv2d(3, 3, 1)(network(noisy).new_zeros(1, 2, 4, 4))
    assert not layer._forward_pre_hooks


def test_layers_that_read_one_cell_are_left_alone() -> None:
    layer = nn.Conv2d(2, 3, 1)
    with cleared_reads(layer, padding((5, 9))):
        assert not layer._forward_pre_hooks


def test_image_sizes_of_targets() -> None:
    sized: list[dict[str, Tensor]] = [{"image_size": torch.tensor([3, 4])}, {"image_size": torch.tensor([5, 6])}]
    assert image_sizes_of(sized)["image_sizes"].tolist() == [[3, 4], [5, 6]]
    assert image_sizes_of([{}, {}]) == {}
    assert image_sizes_of([]) == {}
    with pytest.raises(ValueError, match="1 of 2 targets hold image_size: give it for all images"):
        image_sizes_of([sized[0], {}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.tensor([[384, 288]]), r"image 0 is 384 x 288 \(height x width\) pixels, .* has 288 x 384: are height"),
        (torch.tensor([[8, 8], [0, 8]]), r"^image 1 is 0 x 8"),
        (torch.tensor([8, 8]), r"image sizes have the shape \(2,\): give \(B, 2\)"),
        (torch.zeros(1, 3), r"the shape \(1, 3\)"),
    ],
)
def test_sizes_that_cannot_be(content: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Padding(content, (288, 384))
