# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from isdfine.core.config import Config, load_config
from isdfine.core.errors import ConfigError
from isdfine.core.registry import Registry


class Stem:
    def __init__(self, name: str, sizes: list[int] = [1], act: Literal["relu", "silu"] = "relu") -> None:  # noqa: B006
        self.name, self.sizes, self.act = name, sizes, act


class Net:
    def __init__(
        self,
        stem: Stem,
        num_classes: int,
        num_layers: int = 2,
        rate: float = 0.5,
        betas: tuple[float, float] = (0.9, 0.99),
        extra: Sequence[Stem] | None = None,
        deep: bool = False,
    ) -> None:
        self.stem, self.num_classes, self.num_layers, self.rate = stem, num_classes, num_layers, rate
        self.betas, self.extra, self.deep = betas, extra, deep


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register(Stem)
    registry.register(Net)
    return registry


class Files:
    """Writes YAML files into a folder and loads them."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.folder, self.registry = folder, registry

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def load(self, text: str, overrides: Sequence[str] = (), **options: Any) -> Config:
        return load_config(self.write("main.yml", text), overrides, registry=self.registry, **options)


@pytest.fixture
def files(tmp_path: Path, registry: Registry) -> Files:
    return Files(tmp_path, registry)


GOOD = """
    model: Net
    num_classes: 5
    epoches: 3
    Net:
      stem: {type: Stem, name: a}
      rate: 1e-4
      betas: [0.5, 1]
    Stem:
      sizes: [3, 4]
"""


def test_numbers_without_a_dot_are_floats(files: Files) -> None:
    config = files.load(GOOD, ["Net.rate=2E-3"])
    assert config.get("Net.rate") == 2e-3
    assert files.load(GOOD).get("Net.rate") == 1e-4
    assert files.load("output_dir: 2024-01-01").settings.output_dir == "2024-01-01"


def test_includes_merge_deeply_and_own_keys_win(files: Files) -> None:
    files.write("a/deep.yml", "Net: {num_layers: 1, betas: [0.1, 0.2], stem: {type: Stem, name: deep}}\nepoches: 1\n")
    files.write("a/first.yml", "__include__: ./deep.yml\nNet: {num_layers: 2}\nepoches: 2\n")
    files.write("second.yml", "Net: {rate: 0.25}\nepoches: 3\n")
    config = files.load(
        "__include__: [a/first.yml, second.yml]\nnum_classes: 4\nNet: {betas: [0.3, 0.4]}\nmodel: Net\n"
    )
    assert config.get("Net") == {
        "num_layers": 2,
        "betas": [0.3, 0.4],
        "stem": {"type": "Stem", "name": "deep"},
        "rate": 0.25,
    }
    assert config.settings.epoches == 3
    assert config.origins["Net.num_layers"].endswith("a/first.yml:2")
    assert config.origins["Net.betas.1"].endswith("main.yml:3")
    assert "__include__" not in config.data


def test_includes_from_the_home_folder(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(files.write("home/base.yml", "epoches: 9\n").parent))
    assert files.load("__include__: [~/base.yml]\n").settings.epoches == 9


def test_another_type_replaces_the_component(files: Files) -> None:
    files.write("base.yml", "num_classes: 2\nmodel: {type: Net, stem: Stem, rate: 0.1}\nStem: {name: s}\n")
    assert files.load("__include__: base.yml\nmodel: {type: Stem}").get("model") == {"type": "Stem"}
    assert files.load("__include__: base.yml\nmodel: {type: Net, deep: True}").get("model.rate") == 0.1


def test_what_a_replaced_component_said_is_not_lost_in_silence(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.registry.register(type("Other", (Net,), {}))
    files.write("base.yml", "num_classes: 2\nema:\n  type: Stem\n  name: s\n")
    files.write("net.yml", "__include__: base.yml\nema:\n  type: Net\n  stem: Stem\n  rate: 0.1\n  deep: True\n")
    net, stem = "__include__: net.yml\nStem: {name: a}\n", "stem: Stem"
    assert files.load(net).notes == {}  # `name` of Stem is no argument of Net
    assert files.load(f"{net}ema: {{type: Net, rate: 0.2}}").notes == {}  # the same type inherits
    assert caplog.messages == []
    (message,) = files.load(f"{net}ema: {{type: Other, {stem}, rate: 0.2}}").notes.items()
    assert ": ".join(message).endswith(
        "main.yml:3: ema: Other replaces Net and takes nothing over from it: what was said of deep "
        f"({files.folder}/net.yml:6) no longer holds; say here what shall hold (null where nothing is meant)"
    )
    assert caplog.messages == [": ".join(message)]
    files.write("other.yml", f"{net}ema: {{type: Other, {stem}}}")
    assert files.load("__include__: other.yml\nema: {rate: 1.0, deep: False}").notes == {}  # a later file says it
    assert files.load("__include__: other.yml\nema: ~").notes == {}
    assert len(files.load("__include__: other.yml", ["ema.deep=True"]).notes) == 1  # rate alone


class Reader:
    """A data set of one format."""

    def __init__(self, file: str, transforms: list[int] | None = None, size: int = 1) -> None:
        self.arguments = (file, transforms, size)


def test_transforms_stay_with_another_data_set(files: Files) -> None:
    files.registry.register(Reader)
    files.registry.register(type("Other", (Reader,), {}))
    files.registry.register(type("Bare", (), {"__init__": lambda self, root: None, "__doc__": "No transforms."}))
    files.registry._classes["Bare"].__init__.__annotations__["root"] = str
    files.write("base.yml", "ema:\n  type: Reader\n  file: a\n  size: 2\n  transforms: [1, 2]\n")
    config = files.load("__include__: base.yml\nema: {type: Other, file: b}\n")
    assert config.get("ema") == {"type": "Other", "file": "b", "transforms": [1, 2]}
    ((place, said),) = config.notes.items()
    assert place.endswith("main.yml:2: ema")
    assert said.startswith("Other replaces Reader and takes transforms over from it: what was said of size (")
    bare = files.load("__include__: base.yml\nema: {type: Bare, root: b}\n")
    assert bare.get("ema") == {"type": "Bare", "root": "b"}
    assert "takes nothing over from it: what was said of transforms (" in next(iter(bare.notes.values()))


def test_a_type_from_the_command_line_keeps_what_both_know(files: Files) -> None:
    files.registry.register(Reader)
    files.registry.register(type("Other", (Reader,), {}))
    files.registry.register(type("Bare", (), {"__init__": lambda self, file, root="": None, "__doc__": "Two."}))
    bare = files.registry._classes["Bare"].__init__
    bare.__annotations__.update(file=str, root=str)
    files.write("base.yml", "ema:\n  type: Reader\n  file: a\n  size: 2\n  transforms: [1, 2]\n")
    same = files.load("__include__: base.yml\n", ["ema.type=Other"])
    assert (same.get("ema.size"), same.notes) == (2, {})
    config = files.load("__include__: base.yml\n", ["ema.type=Bare", "ema.root=b"])
    assert config.get("ema") == {"type": "Bare", "file": "a", "root": "b"}
    ((place, said),) = config.notes.items()
    assert place == "override 'ema.type=Bare': ema"
    assert said.startswith("Bare replaces Reader and takes file over from it: what was said of size (")
    with pytest.raises(ConfigError, match=r"ema\.rot: no such argument of Bare; did you mean root"):
        files.load("__include__: base.yml\n", ["ema.type=Bare", "ema.rot=b"])


def test_overrides(files: Files) -> None:
    config = files.load(
        GOOD + "    optimizer: {type: Net, stem: Stem, extra: [{type: Stem, name: x}]}",
        ["Net.num_layers=7", "optimizer.extra.0.name=y", "Net.betas=[0, 1]", "Stem.name=z", "tuning=a=b.pth"],
    )
    assert config.get("Net.num_layers") == 7
    assert config.get("optimizer.extra.0.name") == "y"
    assert config.get("Net.betas") == [0, 1]
    assert config.settings.tuning == "a=b.pth"
    assert config.origins["Net.num_layers"] == "override 'Net.num_layers=7'"
    assert config.get("Net.nothing", 3) == 3
    assert config.get("optimizer.extra.4") is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Net.rate", r"override 'Net.rate': expected key.path=value"),
        ("Net..rate=1", r"override 'Net..rate=1': expected key.path=value"),
        ("Net.rate=[1", r"override 'Net.rate=\[1': not valid YAML"),
        ("model.depth=1", r"override 'model.depth=1': model is 'Net' \(.*main.yml:2\), which has no key 'depth'"),
        ("Stem.sizes.2=1", r"Stem.sizes is a list of 2, so '2' must be an index below 2"),
        ("Stem.sizes.x=1", r"'x' must be an index below 2"),
        ("Net.rat=1", r"override 'Net.rat=1': Net.rat: no such argument of Net; did you mean rate\?"),
    ],
)
def test_bad_overrides(files: Files, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        files.load(GOOD, [override])


def test_overrides_must_be_a_list(files: Files) -> None:
    with pytest.raises(ConfigError, match="overrides must be a list of texts"):
        files.load(GOOD, "epoches=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", r"main.yml:2: not valid YAML"),
        ("- 1\n- 2\n", r"main.yml:1: a config file must hold `key: value` lines, found a list"),
        ("epoches: 1\nseed: 2\nepoches: 3\n", r"main.yml:3: epoches: duplicate key, first on line 1"),
        ("Net:\n  rate: 1.\n  rate: 2.\n", r"main.yml:3: Net.rate: duplicate key, first on line 2"),
        ("Net: !!python/object:os.system {}\n", r"main.yml:1: Net: the tag '.*os.system' is not allowed"),
        ("device: !!python/name:os.system\n", r"main.yml:1: device: the tag .* is not allowed"),
        ("__include__: gone.yml\n", r"gone.yml: no such file: check the path \(included at .*main.yml:1\)"),
        ("__include__: [{a: 1}]\n", r"main.yml:1: __include__: expected a file name or a list"),
        ("__include__: main.yml\n", r"main.yml:1: __include__: the files include each other: .*main.yml -> .*main.yml"),
        ("? [a]\n: 1\n", r"main.yml:1: a key must be a plain word"),
        ("Net: &n {stem: *n}\n", r"alias stands inside its own anchor"),
    ],
)
def test_unreadable_files(files: Files, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        files.load(text)


def test_missing_and_binary_files(files: Files) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yml: no such file: check the path"):
        load_config(files.folder / "nowhere.yml", registry=files.registry)
    (files.folder / "b.yml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match=r"b.yml: not UTF-8 text"):
        load_config(files.folder / "b.yml", registry=files.registry)


def test_cycle_over_two_files(files: Files) -> None:
    files.write("b.yml", "__include__: main.yml\n")
    with pytest.raises(ConfigError, match=r"the files include each other"):
        files.load("__include__: b.yml\n")


def test_the_same_file_may_be_included_twice(files: Files) -> None:
    files.write("base.yml", "epoches: 9\n")
    files.write("b.yml", "__include__: base.yml\n")
    assert files.load("__include__: [base.yml, b.yml]\n").settings.epoches == 9


def test_all_mistakes_are_reported_at_once(files: Files) -> None:
    with pytest.raises(ConfigError) as caught:
        files.load(
            """
            model: Net
            epochess: 3
            use_amp: 1
            clip_max_norm: -0.5
            num_classes: five
            precision: fp8
            criterion: Nett
            Net:
              num_layer: 3
              rate: high
              deep: 1
              betas: [1, 2, 3]
              stem: {type: Stem, act: gelu}
            """
        )
    lines = str(caught.value).splitlines()
    places = [line.split("main.yml:")[1] for line in lines]
    assert places == [
        "10: Net.num_layer: no such argument of Net; did you mean num_layers?",
        "11: Net.rate: expected float, found 'high' (str)",
        "12: Net.deep: expected bool, found 1 (int)",
        "13: Net.betas: expected list of 2 values (float, float), found [1, 2, 3] (list)",
        "14: Net.stem.act: expected one of 'relu', 'silu', found 'gelu' (str)",
        "14: Net.stem.name: missing: Stem needs it, expected str",
        "6: num_classes: expected int, found 'five' (str)",
        "3: epochess: no such top-level key or component; did you mean epoches?",
        "4: use_amp: expected bool, found 1 (int)",
        "7: precision: expected one of 'fp32', 'bf16', 'fp16' or None, found 'fp8' (str)",
        "8: criterion: no component is called 'Nett'; did you mean Net?",
        "5: clip_max_norm: expected 0 or more, found -0.5",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {stem: Stem}", r"model: expected component .*: a mapping needs `type: Name`"),
        ("model: {type: 3}", r"model: no component is called 3; known: Net, Stem"),
        ("model: 3", r"model: expected component .*, found 3 \(int\)"),
        ("Net: [1]", r"Net: expected the arguments of Net as a mapping, found \[1\]"),
        ("model: {type: Net, stem: ~, num_classes: 1}", r"model.stem: expected component \(Stem\), found None"),
        ("model: {type: Net, stem: {type: Net}, num_classes: 1}", r"expected component \(Stem\), found a Net"),
        ("model: {type: Net, num_classes: 1}", r"model.stem: missing: Net needs it, expected component \(Stem\)"),
        ("model: Stem", r"model.name: missing: Stem needs it, expected str"),
        ("model: Stem\nStem: {act: silu}", r"main.yml:2: Stem.name: missing"),
        ("Net: {betas: [0.5, high]}", r"Net.betas.1: expected float, found 'high' \(str\)"),
        ("Stem: {sizes: [3, four]}", r"Stem.sizes.1: expected int, found 'four' \(str\)"),
        ("num_classes: 0", r"num_classes: expected 1 or more, found 0"),
        ("xyzzy: 1", r"main.yml:1: xyzzy: no such top-level key or component$"),
        ("imports: 3", r"imports: expected a list of module names, found 3"),
        (
            "imports: [isdfine_nowhere]",
            r"imports: isdfine_nowhere: no module 'isdfine_nowhere' in .*/.* or on Python's path",
        ),
        ("Stem: &s {name: a}\nNet: {stem: {type: Net, stem: Net}}\nmodel: Net", r"components nest more than 32 deep"),
    ],
)
def test_single_mistakes(files: Files, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        files.load(text)


def test_an_unused_section_may_be_incomplete(files: Files) -> None:
    files.load("Stem: {act: silu}\nNet: ~\n")


def test_required_sections_are_all_named(files: Files) -> None:
    config = files.load(GOOD + "\n    optimizer: ~\n")
    config.require("model")
    with pytest.raises(ConfigError) as caught:
        config.require("model", "optimizer", "train_dataloader")
    lines = str(caught.value).splitlines()
    assert [line.split("main.yml: ")[1] for line in lines] == [
        "optimizer: missing (updates the weights): add this section",
        "train_dataloader: missing (the training data): add this section",
    ]


def test_dump_loads_to_the_same_data(files: Files) -> None:
    tricky = "    output_dir: '1e-4'\n    device: 'yes'\n    resume: '2020-01-01'\n    clip_max_norm: 1e-5\n"
    config = files.load(GOOD + tricky)
    again = load_config(files.write("dumped.yml", config.dump()), registry=files.registry)
    assert again.data == config.data
    assert again.settings.output_dir == "1e-4"
    assert again.settings.clip_max_norm == 1e-5


def test_nothing_reaches_the_inside(files: Files) -> None:
    config = files.load(GOOD)
    before = config.dump()
    config.data["Net"]["stem"]["name"] = "changed"
    config.get("Stem.sizes").append(9)
    assert config.dump() == before
    with pytest.raises(AttributeError):
        config.path = "x"  # type: ignore[misc]


def test_with_values_is_a_checked_copy(files: Files) -> None:
    config = files.load(GOOD)
    changed = config.with_values({"num_classes": 7, "Net.betas": (0.1, 0.2)})
    assert (config.get("num_classes"), changed.get("num_classes")) == (5, 7)
    assert changed.get("Net.betas") == [0.1, 0.2]
    with pytest.raises(ConfigError, match=r"with_values: Net.rate: expected float"):
        config.with_values({"Net.rate": "x"})


def test_shared_values_come_from_the_file_or_a_resolver(files: Files) -> None:
    calls = []

    def count(config: Config) -> int:
        calls.append(config)
        return 11

    text = "model: {type: Net, stem: {type: Stem, name: a}}"
    config = files.load(text, resolvers={"num_classes": count})
    assert calls == []
    assert config.build("model").num_classes == 11
    assert config.shared("num_classes") == 11
    assert len(calls) == 1
    assert config.with_values({"num_classes": 4}).build("model").num_classes == 4
    with pytest.raises(ConfigError, match=r"model.num_classes: missing: Net needs it, expected int"):
        files.load(text)
    helpless = files.load(text, resolvers={"num_classes": lambda config: None})
    with pytest.raises(ConfigError, match=r"model.num_classes: Net needs it: give it in the config or to build"):
        helpless.build("model")
