# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor

from isdfine.distill.rebin import EdgeFrame, Rebinned, rebin
from isdfine.nn.edges import decode_corners, weighting

SIGN = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)


def frame(boxes: Tensor, bins: int = 32, a: float = 0.5, s: float = 4.0) -> EdgeFrame:
    made = EdgeFrame.of(boxes, bins, a, s)
    return made._replace(offsets=made.offsets.double())


def places(of: EdgeFrame) -> Tensor:
    """(..., 4, N + 1) where the bins of every edge lie in the image."""
    centre, size = (side.tile(2) for side in of.boxes.double().split(2, -1))
    return centre[..., None] + SIGN[:, None] * (0.5 + of.offsets / of.scale) * size[..., None]


def peaked(bins: int = 32) -> Tensor:
    number = torch.arange(bins + 1, dtype=torch.float64)
    return (-0.5 * ((number - 18) / 2) ** 2).softmax(0).expand(4, -1)


def random_frames(seed: int, pairs: int = 50, *, spread: float = 0.02) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (P, 4) of teacher and student that are near each other, and logits (P, 4, 33), all float64."""
    random = torch.Generator().manual_seed(seed)
    teacher = torch.rand(pairs, 4, generator=random, dtype=torch.float64) * 0.3 + 0.3
    student = teacher + spread * torch.randn(pairs, 4, generator=random, dtype=torch.float64)
    return teacher, student, torch.randn(pairs, 4, 33, generator=random, dtype=torch.float64) * 2


def test_the_worked_example() -> None:
    teacher = frame(torch.tensor([0.52, 0.52, 0.40, 0.40], dtype=torch.float64))
    student = frame(torch.tensor([0.50, 0.50, 0.38, 0.38], dtype=torch.float64))
    moved, clipped = rebin(peaked(), teacher, student)
    for edge in (2, 3):
        assert moved[edge, [18, 20, 21, 22]].tolist() == pytest.approx(
            [0.031657, 0.169853, 0.223122, 0.214352], abs=6e-7
        )
        for found in ((peaked() * places(teacher)).sum(-1), (moved * places(student)).sum(-1)):
            assert found[edge].item() == pytest.approx(0.736862, abs=6e-7)
    for edge in (0, 1):
        assert moved[edge].argmax() == 17
        assert (moved * places(student)).sum(-1)[edge].item() == pytest.approx(0.303138, abs=6e-7)
    assert clipped.max() < 1e-11


def test_equal_frames_change_nothing() -> None:
    boxes, _, logits = random_frames(0)
    for dtype in (torch.float64, torch.float32):
        probabilities = logits.to(dtype).softmax(-1)
        same = frame(boxes.to(dtype), a=0.7, s=3.3)
        moved, clipped = rebin(probabilities, same, same)
        assert torch.equal(moved, probabilities)
        assert not clipped.any()


@pytest.mark.parametrize(("bins", "a", "s"), [(32, 0.5, 4.0), (16, 0.5, 4.0), (48, 0.6, 5.0), (8, 1.0, -4.0)])
def test_sums_and_means_stay_whatever_the_bins(bins: int, a: float, s: float) -> None:
    theirs, ours, logits = random_frames(1)
    probabilities = logits.softmax(-1)
    teacher, student = frame(theirs), frame(ours, bins, a, s)
    moved, clipped = rebin(probabilities, teacher, student)
    assert moved.shape == (50, 4, bins + 1)
    assert (moved >= 0).all()
    torch.testing.assert_close(moved.sum(-1), torch.ones(50, 4, dtype=torch.float64), atol=1e-12, rtol=0)
    inside = (places(student)[..., [0]] - places(teacher)) * SIGN[:, None] <= 1e-12
    inside &= (places(teacher) - places(student)[..., [-1]]) * SIGN[:, None] <= 1e-12
    whole = inside.all(-1)
    torch.testing.assert_close(clipped, (probabilities * ~inside).sum(-1), atol=1e-12, rtol=0)
    assert whole.any()
    before = (probabilities * places(teacher)).sum(-1)
    after = (moved * places(student)).sum(-1)
    torch.testing.assert_close(after[whole], before[whole], atol=1e-12, rtol=0)


def test_it_means_what_the_decoder_decodes() -> None:
    theirs, ours, logits = (tensor.float() for tensor in random_frames(2, spread=0.005))
    offsets = weighting(32, 0.5, 4.0)
    moved, clipped = rebin(logits.softmax(-1), EdgeFrame.of(theirs, 32, 0.5, 4), EdgeFrame.of(ours, 32, 0.5, -4))
    inside = (clipped < 1e-6).all(-1)
    shown, meant = decode_corners(ours, moved.log(), offsets, 4.0), decode_corners(theirs, logits, offsets, 4.0)
    torch.testing.assert_close(shown[inside], meant[inside], atol=1e-5, rtol=0)
    near = (shown - meant).abs().amax(-1) < 0.02  # what lies beyond the bins is cut, but not lost
    assert near.all()


def test_what_lies_beyond_the_bins_is_put_on_the_last_and_reported() -> None:
    far = EdgeFrame.of(torch.tensor([0.9, 0.5, 0.1, 0.1]), 32, 0.5, 4)
    near = far._replace(boxes=torch.tensor([0.1, 0.5, 0.1, 0.1]))
    moved, clipped = rebin(peaked().float(), far, near)
    torch.testing.assert_close(clipped, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert moved[0, 0].item() == pytest.approx(1)  # the left edge lies to the right of all its bins
    assert moved[2, 32].item() == pytest.approx(1)
    torch.testing.assert_close(moved[1::2], peaked().float()[1::2])


def test_no_gradient_and_frames_without_a_side() -> None:
    theirs, ours, logits = random_frames(3, 4)
    logits.requires_grad_()
    ours[0, 2:] = 0
    ours[1, 2:] = -0.1
    moved, clipped = rebin(logits.softmax(-1), frame(theirs), frame(ours))
    assert not moved.requires_grad
    assert not clipped.requires_grad
    assert moved.isfinite().all()
    torch.testing.assert_close(moved.sum(-1), torch.ones(4, 4, dtype=torch.float64))
    assert (clipped[:2] > 0.99).all()
    none = rebin(torch.zeros(0, 4, 33), frame(theirs[:0]), frame(ours[:0]))
    assert isinstance(none, Rebinned)
    assert none.probabilities.shape == (0, 4, 33)


def test_a_nan_is_kept() -> None:
    theirs, ours, logits = random_frames(4, 2)
    theirs[0, 0] = torch.nan
    moved, _ = rebin(logits.softmax(-1), frame(theirs), frame(ours))
    assert moved[0].isnan().any()
    assert moved[1].isfinite().all()
