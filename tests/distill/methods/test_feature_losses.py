# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The losses of FitNet, FGD, MGD and LCMD on maps alone."""

import math

import pytest
import torch
from torch import Tensor, nn

from isdfine.distill.boxmask import BoxCells, box_cells
from isdfine.distill.features import PairedMaps
from isdfine.distill.methods.fgd import GlobalContext, focal_losses, global_loss, map_attention
from isdfine.distill.methods.fitnet import fitnet_loss
from isdfine.distill.methods.lcmd import LCMD, memory_losses
from isdfine.distill.methods.mgd import MGD, MapGenerator, mgd_loss
from isdfine.nn.boxes import xyxy_to_cxcywh

LARGE, SMALL = (0.125, 0.125, 0.625, 0.625), (0.25, 0.25, 0.5, 0.5)


def random_maps(*shape: int, seed: int = 0, width: int | None = None) -> PairedMaps:
    """Of images of which the last is only ``width`` cells wide; what lies beyond is large."""
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(*shape, generator=random) for _ in range(2))
    valid = torch.ones(shape[0], *shape[2:], dtype=torch.bool)
    if width is not None:
        valid[-1, :, width:] = False
        student[-1, :, :, width:], teacher[-1, :, :, width:] = 70, -90
    return PairedMaps(student.requires_grad_(), teacher, valid)


def cut(maps: PairedMaps, width: int) -> PairedMaps:
    """The last image alone, without its padding."""
    return PairedMaps(maps.student[-1:, ..., :width], maps.teacher[-1:, ..., :width], maps.valid[-1:, :, :width])


def equal(maps: PairedMaps) -> PairedMaps:
    return maps._replace(student=maps.teacher.clone().requires_grad_())


def constant(student: float, teacher: float, *shape: int) -> PairedMaps:
    valid = torch.ones(shape[0], *shape[2:], dtype=torch.bool)
    return PairedMaps(torch.full(shape, float(student)), torch.full(shape, float(teacher)), valid)


def cells_of(*corners: tuple[float, ...], side: int = 8) -> BoxCells:
    """The cells of one image of 64 x 64 pixels."""
    boxes, present = xyxy_to_cxcywh(torch.tensor(corners).view(1, -1, 4)), torch.ones(1, len(corners)) > 0
    return box_cells(boxes, present, (side, side), (64, 64), torch.tensor([[64, 64]]))


def test_fitnet() -> None:
    maps = PairedMaps(torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 2]], [[3, 4]]]]), torch.ones(1, 1, 2) > 0)
    assert fitnet_loss(maps).item() == (1 + 4 + 9 + 16) / 4
    half = maps._replace(valid=torch.tensor([[[True, False]]]))
    assert fitnet_loss(half).item() == (1 + 9) / 2
    assert fitnet_loss(equal(random_maps(2, 3, 4, 5))) == 0
    many = random_maps(2, 3, 4, 5)
    twice = PairedMaps(*(torch.cat((side, side)) for side in many))
    torch.testing.assert_close(fitnet_loss(twice), fitnet_loss(many))


def test_attentions_of_fgd_by_hand() -> None:
    # cells 0 and 2 in the mean of the absolute values, channels 0.5 and 1.5: softmax of twice that
    maps = torch.tensor([[[[0.0, 1.0]], [[0.0, -3.0]]]])
    cells, channels = map_attention(maps, torch.ones(1, 1, 2) > 0, 0.5)
    low, high = (2 / (1 + math.exp(sign * 4)) for sign in (1, -1))
    torch.testing.assert_close(cells, torch.tensor([[[low, high]]]))
    low, high = (2 / (1 + math.exp(sign * 2)) for sign in (1, -1))
    torch.testing.assert_close(channels, torch.tensor([[low, high]]))


def test_attentions_of_fgd_sum_to_what_there_is() -> None:
    maps = random_maps(2, 6, 4, 5, width=3)
    cells, channels = map_attention(maps.teacher, maps.valid, 0.5)
    torch.testing.assert_close(cells.sum((1, 2)), torch.tensor([20.0, 12.0]))
    torch.testing.assert_close(channels.sum(1), torch.tensor([6.0, 6.0]))
    assert not cells[1, :, 3:].any()


def test_focal_losses_of_even_maps_are_the_masses_of_the_boxes() -> None:
    found = focal_losses(constant(0, 1, 1, 4, 8, 8), cells_of(LARGE, SMALL))
    assert [loss.item() for loss in found] == pytest.approx([7, 4, 0], rel=1e-5)


def test_focal_losses_cell_by_cell() -> None:
    maps, cells = random_maps(1, 3, 8, 8), cells_of(LARGE, SMALL)
    mine, theirs = (map_attention(side, maps.valid, 0.5) for side in (maps.student, maps.teacher))
    expected = [0.0, 0.0]
    for channel in range(3):
        for row in range(8):
            for column in range(8):
                place = (0, channel, row, column)
                error = (maps.teacher[place] - maps.student[place]) ** 2
                error = error * theirs.cells[0, row, column] * theirs.channels[0, channel]
                inside_small, inside = (low <= row < high and low <= column < high for low, high in ((2, 4), (1, 5)))
                share = 1 / 4 if inside_small else 1 / 16 if inside else 1 / 48
                expected[0 if inside else 1] += (error * share).item()
    found = focal_losses(maps, cells)
    assert [found.foreground.item(), found.background.item()] == pytest.approx(expected, rel=1e-5)
    attention = (mine.cells - theirs.cells).abs().sum() + (mine.channels - theirs.channels).abs().sum()
    torch.testing.assert_close(found.attention, attention)
    assert [loss.item() for loss in focal_losses(equal(maps), cells)] == [0, 0, 0]


def test_only_the_teachers_attention_weighs_and_only_the_students_learns() -> None:
    maps = random_maps(1, 3, 8, 8)
    cells = cells_of(LARGE)
    loss = focal_losses(maps, cells).foreground
    (gradient,) = torch.autograd.grad(loss, maps.student, retain_graph=True)
    theirs = map_attention(maps.teacher, maps.valid, 0.5)
    weights = (
        theirs.cells[:, None] * theirs.channels[..., None, None] * cells.weight[:, None] * cells.foreground[:, None]
    )
    torch.testing.assert_close(gradient, 2 * weights * (maps.student - maps.teacher))
    assert torch.autograd.grad(focal_losses(maps, cells).attention, maps.student)[0].any()


def test_the_context_of_a_map() -> None:
    torch.manual_seed(0)
    layer, maps, valid = GlobalContext(4), torch.randn(2, 4, 3, 5), torch.ones(2, 3, 5) > 0
    assert torch.equal(layer(maps, valid), maps), "at first it adds nothing"
    nn.init.normal_(layer.change[-1].weight)
    flat = maps.flatten(2)  # (B, D, S)
    scores = (flat * layer.key.weight.view(1, 4, 1)).sum(1) + layer.key.bias
    pooled = torch.stack([(flat[image] * scores[image].softmax(0)).sum(1) for image in range(2)])
    torch.testing.assert_close(layer(maps, valid), maps + layer.change(pooled)[..., None, None])
    assert [weight.shape[0] for weight in layer.change.parameters()] == [2, 2, 2, 2, 4, 4]


def test_relations() -> None:
    maps = random_maps(2, 4, 3, 5)
    torch.manual_seed(0)
    mine, theirs = GlobalContext(4), GlobalContext(4)
    plain = (maps.student - maps.teacher).square().sum() / 2
    torch.testing.assert_close(global_loss(maps, mine, theirs), plain)
    assert global_loss(equal(maps), mine, theirs) == 0
    for layer in (mine, theirs):
        nn.init.normal_(layer.change[-1].weight)
    expected = (mine(maps.student, maps.valid) - theirs(maps.teacher, maps.valid)).square().sum() / 2
    torch.testing.assert_close(global_loss(maps, mine, theirs), expected)
    assert global_loss(equal(maps), mine, theirs) > 0


class Unchanged(nn.Module):
    """A generator that does nothing."""

    def forward(self, maps: Tensor, valid: Tensor) -> Tensor:
        return maps


def test_mgd_without_mask_and_generator_is_a_sum() -> None:
    maps = random_maps(3, 4, 5, 6)
    kept = MGD(masked=0).kept(maps.valid)
    torch.testing.assert_close(mgd_loss(maps, Unchanged(), kept), fitnet_loss(maps) * 4 * 5 * 6)
    alone = maps.student * 0
    torch.testing.assert_close(
        mgd_loss(maps, Unchanged(), MGD(masked=1).kept(maps.valid)),
        fitnet_loss(maps._replace(student=alone)) * 120,
    )


def test_mgd_masks_a_share_of_the_cells_anew_each_time() -> None:
    torch.manual_seed(0)
    method = MGD(masked=0.65)
    valid = torch.ones(4, 100, 100) > 0
    kept, again = method.kept(valid), method.kept(valid)
    assert kept.shape == (4, 1, 100, 100), "one mask for all channels"
    assert kept.unique().tolist() == [0, 1]
    assert 1 - kept.mean().item() == pytest.approx(0.65, abs=0.01)
    assert not torch.equal(kept, again)
    assert not torch.equal(kept[0], kept[1])


def test_the_generator_is_two_convolutions() -> None:
    torch.manual_seed(0)
    generator, maps = MapGenerator(3), torch.randn(2, 3, 4, 5)
    plain = nn.Sequential(generator.first, nn.ReLU(), generator.second)
    torch.testing.assert_close(generator(maps, torch.ones(2, 1, 4, 5)), plain(maps))
    assert [tuple(weight.shape) for weight in generator.parameters()] == [(3, 3, 3, 3), (3,)] * 2


def test_memory_of_a_constant_difference() -> None:
    maps, cells = constant(2, 1, 1, 4, 8, 8), cells_of(LARGE, SMALL)
    method = LCMD()
    found = memory_losses(maps, *method.masks(cells))
    assert [loss.item() for loss in found] == pytest.approx([7, 4])
    assert [loss.item() for loss in memory_losses(maps, *method.masks(cells_of()))] == pytest.approx([0, 4])


def test_rows_of_an_ablation_of_the_memory() -> None:
    maps, cells = constant(2, 1, 1, 4, 8, 8), cells_of(LARGE, SMALL)
    expected = {("location", False): [4 * 16, 4 * 48], ("none", True): [4, 0], ("none", False): [4 * 64, 0]}
    for (mask, scale), values in expected.items():
        masks = LCMD(mask=mask, scale_mask=scale).masks(cells)  # type: ignore[arg-type]
        assert [loss.item() for loss in memory_losses(maps, *masks)] == pytest.approx(values)


def test_without_a_mask_all_cells_of_the_image_weigh_one() -> None:
    box, present = xyxy_to_cxcywh(torch.tensor([[SMALL]])), torch.ones(1, 1) > 0
    foreground, weight = LCMD(mask="none").masks(box_cells(box, present, (4, 6), (64, 96), torch.tensor([[64, 48]])))
    assert torch.equal(weight[0], torch.tensor([1 / 12] * 3 + [0.0] * 3).expand(4, 6))
    assert torch.equal(foreground, weight > 0)


def losses_of(maps: PairedMaps, cells: BoxCells) -> dict[str, Tensor]:
    """Every loss of this file, with weights and masks that are always the same."""
    torch.manual_seed(0)
    mine, theirs, generator = GlobalContext(6), GlobalContext(6), MapGenerator(6)
    for layer in (mine, theirs):
        nn.init.normal_(layer.change[-1].weight)
    kept = (torch.arange(4 * 6) % 3 > 0).view(4, 6)[: maps.size[0], : maps.size[1]].float()
    found = {
        "fitnet": fitnet_loss(maps),
        "mgd": mgd_loss(maps, generator, kept.expand(len(maps.valid), 1, -1, -1)),
        "global": global_loss(maps, mine, theirs),
    }
    for name, losses in {
        "fgd": focal_losses(maps, cells),
        "lcmd": memory_losses(maps, cells.foreground, cells.weight),
    }.items():
        found |= {f"{name}_{part}": loss for part, loss in losses._asdict().items()}
    return found


def test_padding_changes_nothing_and_gets_no_gradient() -> None:
    maps = random_maps(1, 6, 4, 6, width=4)
    box, present = xyxy_to_cxcywh(torch.tensor([[[0.3, 0.0, 0.8, 0.6]]])), torch.ones(1, 1) > 0
    padded = losses_of(maps, box_cells(box, present, (4, 6), (64, 96), torch.tensor([[64, 64]])))
    alone = losses_of(cut(maps, 4), box_cells(box, present, (4, 4), (64, 64), torch.tensor([[64, 64]])))
    for name, loss in padded.items():
        torch.testing.assert_close(loss, alone[name], msg=lambda text, name=name: f"{name}: {text}")
        (gradient,) = torch.autograd.grad(loss, maps.student, retain_graph=True)
        assert gradient[..., :4].any(), name
        assert not gradient[..., 4:].any(), name


def test_a_batch_is_the_mean_of_its_images() -> None:
    maps = random_maps(2, 6, 4, 6)
    boxes = xyxy_to_cxcywh(torch.tensor([[LARGE, SMALL], [(0.3, 0.0, 0.8, 0.6), (0, 0, 0, 0)]]))
    present = torch.tensor([[True, True], [True, False]])
    cells = box_cells(boxes, present, (4, 6), (64, 96), torch.tensor([[64, 96], [64, 96]]))
    together = losses_of(maps, cells)
    images = [
        losses_of(
            PairedMaps(*(side[index : index + 1] for side in maps)),
            BoxCells(*(side[index : index + 1] for side in cells)),
        )
        for index in range(2)
    ]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (images[0][name] + images[1][name]) / 2)
