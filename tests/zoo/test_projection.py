# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from isdfine.core.errors import ConfigError
from isdfine.zoo.projection import InputProjection, level_sizes


def test_maps_of_the_right_width_pass_unchanged() -> None:
    maps = [torch.randn(1, 8, 4, 6), torch.randn(1, 8, 2, 3)]
    projection = InputProjection([8, 8], 8, 2)
    assert projection.state_dict() == {}
    assert all(a is b for a, b in zip(projection(maps), maps))


def test_extra_levels_always_get_smaller() -> None:
    """Upstream leaves them at full size where the channels match (docs/method.md 11.2)."""
    for channels in (8, 4):
        projection = InputProjection([8, channels], 8, 4)
        maps = projection([torch.randn(2, 8, 10, 6), torch.randn(2, channels, 5, 3)])
        assert [tuple(feature_map.shape) for feature_map in maps] == [
            (2, 8, 10, 6),
            (2, 8, 5, 3),
            (2, 8, 3, 2),
            (2, 8, 2, 1),
        ]
        assert [(feature_map.shape[2], feature_map.shape[3]) for feature_map in maps] == level_sizes(
            (80, 48), (8, 16), 4
        )
    assert isinstance(projection[1].conv, nn.Conv2d)
    assert projection[1].conv.kernel_size == (1, 1)
    assert projection[3].conv.stride == (2, 2)


def test_messages() -> None:
    with pytest.raises(ValueError, match=r"num_levels 1 is less than the 2 feat_channels \[8, 8\]"):
        InputProjection([8, 8], 8, 1)
    with pytest.raises(ConfigError, match=r"feat_channels \[8, 8\] but got maps of \[8, 16\] channels: compare"):
        InputProjection([8, 8], 8, 2)([torch.zeros(1, 8, 2, 2), torch.zeros(1, 16, 1, 1)])
    with pytest.raises(ValueError, match=r"feat_channels \[8, 8\] but got maps of \[8\] channels"):
        InputProjection([8, 8], 8, 2)([torch.zeros(1, 8, 2, 2)])
