# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from isdfine.core.config import Config
from isdfine.core.config.node import locate
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


def test_a_class_defined_again_replaces_itself() -> None:
    registry = Registry()
    first, second = (type("Part", (), {"__module__": "cell", "__qualname__": "Part"}) for _ in range(2))
    registry.register(first)
    assert registry.register(second) is second
    assert registry["Part"] is second
    with pytest.raises(ValueError, match="the name Part is taken by cell: rename one of the two"):
        registry.register(type("Part", (), {"__module__": "cell", "__qualname__": "make.<locals>.Part"}))


def test_open_after_a_build() -> None:
    """In a notebook: build, define a component, build again; and define it once more."""
    registry = Registry()

    @registry.register
    class Square:
        def __init__(self, side: int = 2) -> None:
            self.side = side

    def built(name: str) -> object:
        tree = locate({"model": name}, "notebook")
        return Config(tree, "notebook", registry).build("model")

    assert vars(built("Square")) == {"side": 2}

    def define(default: int) -> type:
        class Circle:
            def __init__(self, radius: int = default) -> None:
                self.radius = radius

        return registry.register(Circle)

    for radius in (1, 3):  # the second time with another constructor, as after an edit
        define(radius)
        assert vars(built("Circle")) == {"radius": radius}
