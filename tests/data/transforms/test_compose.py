# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from torch import nn

from isdfine.data.transforms import (
    Compose,
    ConvertBoxes,
    ConvertPILImage,
    PixelConversion,
    Resize,
    SanitizeBoundingBoxes,
)


class Mark(nn.Module):
    """Writes its name into the target."""

    def forward(self, image, target):
        return image, {**target, "seen": [*target.get("seen", []), type(self).__name__]}


class First(Mark):
    pass


class Second(Mark):
    pass


def seen(compose, epoch=0):
    return compose(None, {}, epoch=epoch)[1].get("seen", [])


def test_ops_run_in_order():
    assert seen(Compose([First(), Second(), First()])) == ["First", "Second", "First"]
    assert seen(Compose()) == []
    assert seen(Compose([First()], {"name": "default"}), epoch=9) == ["First"]


def test_named_ops_stop_at_the_epoch():
    compose = Compose([First(), Second()], {"name": "stop_epoch", "epoch": 3, "ops": ["First"]})
    assert seen(compose, 2) == ["First", "Second"]
    assert seen(compose, 3) == ["Second"]
    assert seen(compose, 4) == ["Second"]


@pytest.mark.parametrize(
    ("policy", "match"),
    [
        ({"name": "stop_sample", "sample": 9, "ops": []}, "stop_sample counts the samples of each worker process"),
        ({"name": "stop"}, "policy 'stop' is unknown: use stop_epoch or default"),
        ({"name": "stop_epoch", "ops": ["First"]}, "must be {name: stop_epoch, epoch: 0 or more"),
        ({"name": "stop_epoch", "epoch": -1, "ops": ["First"]}, "must be {name: stop_epoch, epoch: 0 or more"),
        ({"name": "stop_epoch", "epoch": 3}, "must be {name: stop_epoch"),
        ({"name": "stop_epoch", "epoch": 3, "ops": [], "opps": 1}, "must be {name: stop_epoch"),
        (
            {"name": "stop_epoch", "epoch": 3, "ops": ["First", "Mosaic"]},
            "policy.ops names Mosaic, but ops holds First, Second",
        ),
    ],
)
def test_wrong_policies(policy, match):
    with pytest.raises(ValueError, match=match):
        Compose([First(), Second()], policy)


def test_declarations_for_the_loader():
    assert Compose().pixels == PixelConversion(scale=True)
    assert Compose([ConvertPILImage(scale=False)]).pixels == PixelConversion(scale=False)
    assert Compose([ConvertBoxes()]).normalizes_boxes
    assert not Compose([ConvertBoxes("xyxy")]).normalizes_boxes
    assert not Compose([ConvertBoxes(normalize=False)]).normalizes_boxes
    assert not Compose().normalizes_boxes


def test_ops_on_pixels_after_the_boxes_became_fractions_are_refused():
    with pytest.raises(ValueError, match=r"Compose: Resize, SanitizeBoundingBoxes after ConvertBoxes, .* to the end"):
        Compose([ConvertBoxes(), Resize((64, 64)), ConvertPILImage(), SanitizeBoundingBoxes()])
    Compose([ConvertBoxes(fmt="xyxy", normalize=False), Resize((64, 64)), ConvertBoxes(), ConvertPILImage()])
