# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which stage a part of a backbone belongs to."""

import torch
from torch import nn

from isdfine.nn.backbone.stages import leaf_stages, parts_up_to, stage_of


class Branched(nn.Module):
    """Stem, a map of stride 2 inside the body, and three further parts of which the last two make one stage."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))


MAPS = [("body.0", 2), ("body.1", 4), ("body.3", 8)]


def test_what_lies_between_two_maps_leads_to_the_second() -> None:
    stages = leaf_stages(Branched(), MAPS)
    assert stages == {"stem": 0, "body.0": 0, "body.1": 1, "body.2": 2, "body.3": 2}


def test_without_a_map_of_stride_2_the_stem_is_what_lies_before_the_first_map() -> None:
    assert leaf_stages(Branched(), [("body.0", 4), ("body.3", 8)]) == {
        "stem": 0, "body.0": 1, "body.1": 2, "body.2": 2, "body.3": 2,
    }  # fmt: skip


def test_parameters_belong_to_the_stage_of_their_module() -> None:
    stages = leaf_stages(Branched(), MAPS)
    found = {name: stage_of(name, stages) for name, _ in Branched().named_parameters() if "bias" not in name}
    assert found == {
        "scale": 0, "stem.weight": 0, "body.0.weight": 0, "body.1.weight": 1, "body.2.weight": 2, "body.3.weight": 2,
    }  # fmt: skip


def test_parts_are_as_large_as_they_can_be() -> None:
    network = Branched()
    stages = leaf_stages(network, MAPS)
    assert parts_up_to(network, stages, 0) == ["stem", "body.0"]
    assert parts_up_to(network, stages, 2) == ["stem", "body"]


def test_without_such_modules_there_are_no_stages() -> None:
    assert leaf_stages(Branched(), [("layer1", 4)]) == {}
    assert leaf_stages(Branched(), []) == {}
