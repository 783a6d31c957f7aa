# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor

from isdfine.distill.boxmask import BoxCells, box_cells, padded_boxes, whole_canvas
from isdfine.losses.matched import tabulate
from isdfine.nn.boxes import xyxy_to_cxcywh
from isdfine.nn.padding import Padding

LARGE, SMALL = (0.125, 0.125, 0.625, 0.625), (0.25, 0.25, 0.5, 0.5)
CANVAS = (64, 64)


def cells(
    *corners: tuple[float, ...], size: tuple[int, int] = (8, 8), canvas: tuple[int, int] = CANVAS, **options: object
) -> BoxCells:
    """The cells of one image."""
    boxes = xyxy_to_cxcywh(torch.tensor(corners).view(1, -1, 4))
    given = {"image_sizes": torch.tensor([canvas]), **options}
    return box_cells(boxes, torch.ones(1, len(corners), dtype=torch.bool), size, canvas, **given)  # type: ignore[arg-type]


def whole(height: int, width: int, images: int) -> tuple[tuple[int, int], Tensor]:
    """A canvas, and the sizes of images that fill it."""
    return (height, width), whole_canvas((height, width), images, torch.device("cpu"))


def masses(level: BoxCells, boxes: int) -> list[float]:
    """Total weight of each box, and of the background last."""
    return [level.weight[level.owner == box].sum().item() for box in range(boxes)] + [
        level.weight[(level.owner < 0) & level.valid].sum().item()
    ]


@pytest.mark.parametrize(
    ("side", "owned", "background", "expected"),
    [
        (8, 16, 48, [12 / 16, 1, 1]),
        (4, 9, 7, [8 / 9, 1, 1]),
        (2, 4, 0, [3 / 4, 1, 0]),
    ],
)
def test_two_boxes_one_inside_the_other(side: int, owned: int, background: int, expected: list[float]) -> None:
    level = cells(LARGE, SMALL, size=(side, side))
    assert int(level.foreground.sum()) == owned
    assert level.background.tolist() == [background]
    assert masses(level, 2) == pytest.approx(expected)
    assert level.valid.all()


def test_weights_of_the_cells() -> None:
    level = cells(LARGE, SMALL)
    assert level.owner[0, 1].tolist() == [-1, 0, 0, 0, 0, -1, -1, -1]
    assert level.owner[0, 2].tolist() == [-1, 0, 1, 1, 0, -1, -1, -1]
    assert level.weight[0, 0, 0].item() == pytest.approx(0.0208333, abs=1e-7)
    assert level.weight[0, 1, 1].item() == 1 / 16
    assert level.weight[0, 2, 2].item() == 1 / 4
    coarse = cells(LARGE, SMALL, size=(2, 2)).weight[0]
    assert sorted(coarse.flatten().tolist()) == [0.25, 0.25, 0.25, 1.0]


def test_a_map_that_is_not_square() -> None:
    level = cells((0.5, 0.0, 0.75, 1.0), size=(2, 8))
    assert level.owner.tolist() == [[[-1, -1, -1, -1, 0, 0, -1, -1]] * 2]


def test_equal_boxes_go_to_the_first_and_order_does_not_matter_otherwise() -> None:
    assert (cells(SMALL, SMALL).owner <= 0).all()
    level, turned = cells(LARGE, SMALL), cells(SMALL, LARGE)
    assert torch.equal(level.weight, turned.weight)
    assert torch.equal(level.owner, torch.where(turned.owner < 0, -1, 1 - turned.owner))


def test_without_boxes_all_is_background() -> None:
    level = cells()
    assert not level.foreground.any()
    assert torch.equal(level.weight, torch.full((1, 8, 8), 1 / 64))


@pytest.mark.parametrize("columns", [20, 80, 168])
def test_a_border_between_cells_is_found_in_float32(columns: int) -> None:
    firsts = torch.arange(columns - 1)
    for width in (1, 2, columns // 3):
        last = (firsts + width).clamp(max=columns)
        corners = torch.stack([firsts / columns, torch.zeros(columns - 1), last / columns, torch.ones(columns - 1)], -1)
        one_per_image = xyxy_to_cxcywh(corners)[:, None]
        level = box_cells(
            one_per_image,
            torch.ones(columns - 1, 1, dtype=torch.bool),
            (1, columns),
            *whole(8, 8 * columns, columns - 1),
        )
        assert torch.equal(level.foreground.sum((1, 2)), last - firsts)
        assert torch.equal(level.foreground[:, 0].int().argmax(-1), firsts)


def test_a_box_thinner_than_a_cell_has_one_and_one_beyond_the_image_is_cut() -> None:
    assert cells((0.25, 0.25, 0.25, 0.25)).owner.eq(0).nonzero().tolist() == [[0, 2, 2]]
    over = cells((0.75, 0.75, 1.5, 1.5))
    assert int(over.foreground.sum()) == 4
    assert masses(over, 1) == pytest.approx([1, 1])


def test_padded_cells_weigh_nothing_and_boxes_are_fractions_of_the_image() -> None:
    level = cells(LARGE, SMALL, size=(16, 16), canvas=(128, 128), image_sizes=torch.tensor([CANVAS]))
    alone = cells(LARGE, SMALL)
    assert torch.equal(level.weight[:, :8, :8], alone.weight)
    assert torch.equal(level.owner[:, :8, :8], alone.owner)
    assert int(level.valid.sum()) == 64
    assert not level.weight[:, 8:].any()
    assert not level.weight[:, :, 8:].any()
    assert level.background.tolist() == [48]


def test_a_last_cell_that_is_partly_padding_counts_and_stretches_nothing() -> None:
    image = torch.tensor([[50, 37]])  # 6.25 x 4.625 cells of 8 pixels
    level = cells((0.0, 0.0, 16 / 37, 1.0), (0.9, 0.9, 1.0, 1.0), image_sizes=image)
    assert torch.equal(level.valid, ~Padding(image, CANVAS).mask((8, 8))[:, 0])
    assert int(level.valid.sum()) == 7 * 5
    assert (level.owner == 0).sum((1, 2)).tolist() == [7 * 2]
    assert (level.owner == 1).nonzero().tolist() == [[0, 5, 4], [0, 6, 4]]
    assert masses(level, 2) == pytest.approx([1, 1, 1])


def test_images_of_a_batch_are_those_alone() -> None:
    targets = [
        {"boxes": xyxy_to_cxcywh(torch.tensor([LARGE, SMALL])), "labels": torch.tensor([0, 0])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": xyxy_to_cxcywh(torch.tensor([SMALL])), "labels": torch.tensor([2])},
    ]
    boxes, present = padded_boxes(tabulate(targets, 3, torch.device("cpu")))
    assert present.tolist() == [[True, True], [False, False], [True, False]]
    batch = box_cells(boxes, present, (8, 8), *whole(*CANVAS, 3))
    for index, alone in enumerate((cells(LARGE, SMALL), cells(), cells(SMALL))):
        for together, single in zip(batch, alone):
            assert torch.equal(together[index : index + 1], single)


def test_a_batch_without_any_box() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    boxes, present = padded_boxes(tabulate([nothing, nothing], 2, torch.device("cpu")))
    assert masses(box_cells(boxes, present, (4, 4), *whole(*CANVAS, 2)), 0) == pytest.approx([2])


def test_further_readings() -> None:
    pixels = cells(LARGE, SMALL, unit="input")
    assert pixels.weight[0, 1, 1].item() == 1 / 32**2
    assert pixels.weight[0, 2, 2].item() == 1 / 16**2
    assert pixels.weight[0, 0, 0].item() == pytest.approx(1 / 48)
    assert cells((0.25, 0.25, 0.25, 0.25), unit="input").weight[0, 2, 2].item() == 1, "a pixel at least"
    fgd = cells(SMALL, rounding="inclusive")  # columns 2 to 4, both included
    assert int(fgd.foreground.sum()) == 9
    assert masses(fgd, 1) == pytest.approx([1, 1])
    over = cells((0.75, 0.75, 1.0, 1.0), rounding="inclusive")  # columns 6 to 8, of which 8 is beyond the map
    assert masses(over, 1) == pytest.approx([4 / 9, 1])


def test_random_boxes_never_weigh_more_than_one() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(4, 9, 4, generator=generator) * torch.tensor([1, 1, 0.6, 0.6])
    level = box_cells(boxes, torch.ones(4, 9, dtype=torch.bool), (13, 17), *whole(416, 544, 4))
    for box in range(9):
        own = torch.where(level.owner == box, level.weight, 0).sum((1, 2))
        assert (own <= 1 + 1e-6).all()
    # the rule, cell by cell
    corners = torch.cat((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1).double()
    for image in range(4):
        for row in range(13):
            for column in range(17):
                over = (corners[image, :, 0] * 17 < column + 1) & (corners[image, :, 2] * 17 > column)
                over &= (corners[image, :, 1] * 13 < row + 1) & (corners[image, :, 3] * 13 > row)
                areas = boxes[image, :, 2:].prod(-1).masked_fill(~over, 9)
                assert level.owner[image, row, column] == (areas.argmin() if over.any() else -1)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unit: 'feet' is none of 'cell', 'input'"):
        cells(SMALL, unit="feet")
    with pytest.raises(ValueError, match="rounding: 'up' is none of 'covered', 'inclusive'"):
        cells(SMALL, rounding="up")
