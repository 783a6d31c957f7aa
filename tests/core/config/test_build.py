# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from isdfine.core.config import Config, load_config
from isdfine.core.errors import ConfigError
from isdfine.core.registry import Registry


@dataclass
class Body:
    name: str
    pretrained: bool = True


@dataclass
class Matcher:
    cost: float = 1.0


@dataclass
class Model:
    body: Body
    num_classes: int


@dataclass
class Loss:
    matcher: Matcher
    weights: dict[str, float]
    num_classes: int = 80


@dataclass
class Optim:
    model: Model
    params: list[dict[str, Any]] | None = None
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass
class Average:
    model: Model
    optimizer: Optim | None = None


@dataclass
class Rate:
    optimizer: Optim
    model: Model
    steps_per_epoch: int


class Op(Protocol):
    def __call__(self, value: int) -> int: ...


@dataclass
class Add:
    amount: int = 1

    def __call__(self, value: int) -> int:
        return value + self.amount


@dataclass
class Chain:
    ops: Sequence[Op] | None = None
    policy: Mapping[str, Any] | None = None
    by_name: dict[str, Op] | None = None
    final: Callable[[int], int] | str | None = None
    where: Path | None = None


@dataclass
class Selfish:
    matcher: Any = None
    criterion: "Selfish | None" = None


class Loose:
    def __init__(self, name: str, **options: Any) -> None:
        self.name, self.options = name, options


CLASSES = (Body, Matcher, Model, Loss, Optim, Average, Rate, Add, Chain, Selfish, Loose)

TEXT = """
num_classes: 4
model: Model
criterion: {type: Loss, weights: {a: 1, b: 0.5}}
matcher: {type: Matcher, cost: 3}
optimizer:
  type: Optim
  params: [{params: '^b', lr: 1e-3}]
  betas: [0.5, 1]
ema: {type: Average}
lr_scheduler: {type: Rate}
train_dataloader:
  type: Chain
  ops: [Add, {type: Add, amount: 3}]
  policy: {name: stop, epoch: 3, ops: [Add]}
  by_name: {plus: {type: Add}}
  final: Add
  where: some/folder
Model:
  body: Body
Body:
  name: b
  pretrained: False
Add:
  amount: 2
"""


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    for cls in CLASSES:
        registry.register(cls)
    return registry


@pytest.fixture
def load(tmp_path: Path, registry: Registry) -> Callable[..., Config]:
    def load(text: str = TEXT, *overrides: str) -> Config:
        (tmp_path / "c.yml").write_text(text)
        return load_config(tmp_path / "c.yml", overrides, registry=registry)

    return load


def test_parts_by_name_with_their_sections_and_shared_values(load: Callable[..., Config]) -> None:
    assert load().build("model") == Model(Body("b", pretrained=False), num_classes=4)


def test_inline_arguments_win_over_the_section(load: Callable[..., Config]) -> None:
    config = load(TEXT, "Model.body={type: Body, name: inline}")
    assert config.build("model").body == Body("inline", pretrained=False)


def test_a_slot_fills_the_parameter_of_its_name(load: Callable[..., Config]) -> None:
    assert load().build("criterion") == Loss(Matcher(3), {"a": 1, "b": 0.5}, num_classes=4)
    explicit = load(TEXT, "criterion.matcher={type: Matcher, cost: 9}")
    assert explicit.build("criterion").matcher == Matcher(9)
    named = load(TEXT, "criterion.matcher=matcher")
    assert named.build("criterion").matcher == Matcher(3)


def test_given_objects_win_everywhere(load: Callable[..., Config]) -> None:
    config = load()
    model = config.build("model")
    optimizer = config.build("optimizer", model=model)
    assert optimizer.model is model
    rate = config.build("lr_scheduler", optimizer=optimizer, model=model, steps_per_epoch=7)
    assert rate.optimizer is optimizer
    assert rate.steps_per_epoch == 7


def test_a_fresh_model_is_announced_and_shared(load: Callable[..., Config], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rate = load().build("lr_scheduler", steps_per_epoch=1)
    assert rate.model is rate.optimizer.model
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "lr_scheduler: Rate refers to a freshly built optimizer; give yours: build(..., optimizer=optimizer)",
        "optimizer: Optim refers to a freshly built model; give yours: build(..., model=model)",
    ]


def test_an_optional_run_time_object_is_not_built(load: Callable[..., Config]) -> None:
    config = load()
    assert config.build("ema", model=config.build("model")).optimizer is None


def test_lists_mappings_callables_and_plain_values(load: Callable[..., Config]) -> None:
    chain = load().build("train_dataloader")
    assert chain.ops == [Add(2), Add(3)]
    assert chain.policy == {"name": "stop", "epoch": 3, "ops": ["Add"]}
    assert chain.by_name == {"plus": Add(2)}
    assert chain.final == Add(2)
    assert chain.where == Path("some/folder")
    assert load(TEXT, "train_dataloader.final=words").build("train_dataloader").final == "words"
    assert load(TEXT, "train_dataloader.ops=~").build("train_dataloader").ops is None


def test_null_takes_an_entry_out_of_a_mapping_whose_values_cannot_be_null(
    load: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "base.yml").write_text(TEXT)
    child = """
    __include__: base.yml
    criterion: {weights: {a: ~}}
    train_dataloader: {by_name: {plus: ~}, policy: {epoch: ~}}
    """
    for config in (load(child), load(TEXT, "criterion.weights.a=null", "train_dataloader.by_name.plus=~")):
        assert config.build("criterion").weights == {"b": 0.5}
        assert config.build("train_dataloader").by_name == {}
        assert load(config.dump()).build("criterion").weights == {"b": 0.5}
    assert load(child).build("train_dataloader").policy == {"name": "stop", "epoch": None, "ops": ["Add"]}  # a value
    assert load(TEXT, "train_dataloader.policy=~").build("train_dataloader").policy is None
    with pytest.raises(ConfigError, match=r"Add.amount: expected int, found None"):
        load(TEXT, "Add.amount=~")


def test_a_null_that_takes_nothing_away_is_pointed_out(load: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text(TEXT)
    child = "__include__: base.yml\ntrain_dataloader: {by_name: {pluss: ~}}\n"
    for config in (load(child), load(TEXT, "train_dataloader.by_name.pluss=null")):
        (note,) = config.notes.values()
        assert note == "null takes an entry away, and there is none of this name; did you mean plus?"


def test_lists_become_tuples_where_annotated_and_whole_numbers_stay(load: Callable[..., Config]) -> None:
    optimizer = load(TEXT, "optimizer.lr=4").build("optimizer", model=None)
    assert optimizer.betas == (0.5, 1)
    assert isinstance(optimizer.betas, tuple)
    assert isinstance(optimizer.lr, int)
    assert optimizer.params == [{"params": "^b", "lr": 1e-3}]


def test_building_twice_gives_equal_objects_and_changes_nothing(
    load: Callable[..., Config], registry: Registry
) -> None:
    config = load()
    before, names = config.dump(), list(registry)
    first, second = config.build("criterion"), config.build("criterion")
    first.weights["a"] = 99
    assert second == config.build("criterion")
    assert second != first
    assert config.dump() == before
    assert list(registry) == names


def test_two_configs_do_not_touch_each_other(load: Callable[..., Config]) -> None:
    plain, changed = load(), load(TEXT, "Body.name=other")
    changed.build("model")
    assert plain.build("model").body.name == "b"


def test_the_registry_stays_open_after_a_build(load: Callable[..., Config], registry: Registry) -> None:
    load().build("matcher")
    late = registry.register(type("Late", (), {}))
    assert type(load().build("Late")) is late


def test_a_class_can_be_built_by_name(load: Callable[..., Config]) -> None:
    assert load().build("Body") == Body("b", pretrained=False)
    assert load().build("Matcher") == Matcher()


def test_further_arguments_are_passed_on_where_the_constructor_takes_them(load: Callable[..., Config]) -> None:
    built = load("model: {type: Loose, name: x, depth: [1, {a: 2}]}").build("model")
    assert built.options == {"depth": [1, {"a": 2}]}


def test_a_resolver_that_cannot_tell_leaves_the_default(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "c.yml").write_text("criterion: {type: Loss, matcher: Matcher, weights: {}}")
    config = load_config(tmp_path / "c.yml", registry=registry, resolvers={"num_classes": lambda config: None})
    assert config.build("criterion").num_classes == 80


def test_a_resolver_is_not_asked_for_what_may_be_none(tmp_path: Path, registry: Registry) -> None:
    @registry.register
    @dataclass
    class Data:
        num_classes: int | None = None

    def fail(config: Config) -> int:
        raise AssertionError("asked")

    (tmp_path / "c.yml").write_text("train_dataloader: {type: Data}")
    config = load_config(tmp_path / "c.yml", registry=registry, resolvers={"num_classes": fail})
    assert config.build("train_dataloader").num_classes is None
    assert config.with_values({"num_classes": 3}).build("train_dataloader").num_classes == 3


def test_what_a_component_did_not_expect_is_one_line_with_both_places(
    load: Callable[..., Config], registry: Registry
) -> None:
    class Halves:
        def __init__(self, parts: int) -> None:
            self.size = 1 / parts

    registry.register(Halves)
    with pytest.raises(
        ConfigError, match=r"c.yml:1: model: cannot be built from these values: .*test_build.py:\d+: Zero"
    ):
        load("model: {type: Halves, parts: 0}").build("model")


def test_no_such_section(load: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"c.yml: no section 'optimiser' to build; did you mean optimizer\?"):
        load().build("optimiser")
    with pytest.raises(ConfigError, match=r"no section 'evaluator' to build") as caught:
        load(TEXT + "evaluator: ~\nval_dataloader: {type: Loose, name: a}\n").build("evaluator")
    assert "did you mean" not in str(caught.value)


def test_a_run_time_value_that_nobody_gives(load: Callable[..., Config]) -> None:
    config = load()
    model = config.build("model")
    with pytest.raises(ConfigError, match=r"lr_scheduler.steps_per_epoch: Rate needs it: give it in the config"):
        config.build("lr_scheduler", model=model, optimizer=config.build("optimizer", model=model))


def test_a_slot_that_needs_itself(load: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"criterion: refers to itself: criterion -> criterion"):
        load("criterion: Selfish").build("criterion")


def test_an_annotation_only_for_type_checkers_is_a_programming_error(tmp_path: Path) -> None:
    class Wrong:
        def __init__(self, part: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
            pass

    registry = Registry()
    registry.register(Wrong)
    (tmp_path / "c.yml").write_text("model: Wrong")
    with pytest.raises(TypeError, match=r"Wrong.__init__ cannot be resolved: .*import the name outside TYPE_CHECKING"):
        load_config(tmp_path / "c.yml", registry=registry)
