# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from isdfine.core.environment import pick_device
from isdfine.core.errors import ConfigError


def test_without_a_name_it_is_a_device_that_is_here() -> None:
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "hpu", "vulkan", "cuda:99", "mtia"])
def test_devices_that_torch_can_name_and_not_compute_on_are_one_line(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"device is {name}, but this torch \(.*\) cannot compute on it here.*: give cpu"
    ) as error:
        pick_device(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gpu", "0", "CPU", "cuda:x"])
def test_names_that_torch_does_not_know_are_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device is '{name}': give cpu, cuda or cuda:0"):
        pick_device(name)
