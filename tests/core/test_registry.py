# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from isdfine.core.registry import Registry


def test_registers_and_returns_the_class() -> None:
    registry = Registry()

    @registry.register
    class Part:
        pass

    assert registry["Part"] is Part
    assert "Part" in registry
    assert list(registry) == ["Part"]


def test_a_name_is_taken_once() -> None:
    registry = Registry()
    registry.register(type("Part", (), {"__module__": "first"}))
    with pytest.raises(ValueError, match="the name Part is taken by first: rename one of the two"):
        registry.register(type("Part", (), {}))


def test_closed_after_the_first_build() -> None:
    registry = Registry()
    registry.freeze()
    with pytest.raises(RuntimeError, match="Part is registered after the first build: import its module before"):
        registry.register(type("Part", (), {}))
