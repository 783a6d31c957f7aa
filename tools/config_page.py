#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Print docs/config.md, every key of a config, from the settings, the constructors and their docstrings.

python tools/config_page.py > docs/config.md
"""

import ast
import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import get_type_hints

import isdfine.components  # noqa: F401  # fills the registry
from isdfine.core.config.plan import LIST_SLOTS, PURPOSES, RUNTIME_PARAMETERS, SHARED
from isdfine.core.config.settings import RunSettings
from isdfine.core.registry import REGISTRY, describe, schema_of
from isdfine.data.dataset.prepare import PreparedDataset

HEAD = """# Config keys

Made from the code by `python tools/config_page.py > docs/config.md`.

A config is YAML. `__include__` lists files that it builds on: paths relative to it, or `isdfine:` and the name of one
in the package. Later files win; mappings are merged, lists replaced, and null takes an entry out of a mapping.
`isdfine train -c FILE --print-config` shows what a file resolves to, `-u a.b.c=value` sets any key. Everything is
checked before work begins: unknown, missing and mistyped keys are all reported at once, with file, line and the nearest
known name.

A component is a class name or a mapping with `type`. Its arguments stand in that mapping or in a top-level section of
the class's name (`model: DFINE`, `DFINE: {...}`), which holds wherever the class is used.
"""

GROUPS = {
    "Models": "zoo",
    "Backbones": "nn.backbone",
    "Matching and losses": "losses",
    "Distillation": "distill",
    "Optimisers, schedules, average": "optim",
    "Data sets": "data.dataset",
    "Augmentation": "data.transforms",
    "Batches, cache, evaluation": "data",
    "Writers": "solver",
    "Others": "",
}
"""Heading of the components below a package of ours; a component stands under the first that fits."""

SHARED_TEXTS = {
    "num_classes": "classes of the data and of the model; left out: read from the training annotations",
    "eval_spatial_size": "height and width of evaluated images, for anchors and export; `input_size` sets it",
    "use_focal_loss": "class scores by a sigmoid each (True) or one softmax",
    "remap_mscoco_category": "label 0..79 are COCO's 80 classes, also where a file lists fewer",
    "seed": "see above",
}


def plain(text: str) -> str:
    """reStructuredText of a docstring as one line of a Markdown table."""
    text = re.sub(r":\w+:`~?\.?([^`]*)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", "\\|")


def value(default: object) -> str:
    """A default as a config writes it."""
    if default is inspect.Parameter.empty:
        return "required"
    return f"`{list(default) if isinstance(default, tuple) else default}`"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [list(head), ["---"] * len(list(head)), *map(list, rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines] + [""]


def settings() -> list[str]:
    """The table of the run's settings; what a field is stands below it in the code."""
    body = ast.parse(inspect.getsource(RunSettings)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {
        field.target.id: text.value.value
        for field, text in zip(body.body, body.body[1:])
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    types = get_type_hints(RunSettings)
    return table(
        ("key", "type", "default", "what it is"),
        ((f"`{one.name}`", plain(describe(types[one.name])), value(one.default), plain(str(texts[one.name])))
         for one in fields(RunSettings)),
    )  # fmt: skip


def ours(cls: type) -> list[type]:
    """The class and those of this package that it derives from."""
    return [base for base in cls.__mro__ if base.__module__.startswith("isdfine.")]


def texts_of(cls: type) -> dict[str, str]:
    """What docstrings say of each argument; the class's own words before those of its bases."""
    texts: dict[str, str] = {}
    for base in ours(cls):
        section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", inspect.cleandoc(base.__doc__ or ""), flags=re.MULTILINE)
        for names, text in re.findall(
            r"^    (\w[^:\n]*): ((?:.*\n?)(?:     .*\n?)*)", section[1] if section else "", re.MULTILINE
        ):
            for name in re.split(r", | and ", names):
                if not text.startswith("see "):
                    texts.setdefault(name, plain(text))
    return texts


def rows_of(cls: type) -> list[tuple[str, ...]]:
    """Name, type, default and text of every argument that a config may give and that our code names."""
    texts, inits = texts_of(cls), [base for base in ours(cls) if "__init__" in vars(base)]
    named = set(texts).union(*(inspect.signature(base).parameters for base in inits))
    return [
        (f"`{one.name}`", plain(describe(one.annotation)), value(one.default), texts.get(one.name, ""))
        for one in schema_of(cls).parameters.values()
        if one.name in named and one.name not in RUNTIME_PARAMETERS
    ]


def component(cls: type, aliases: Iterable[str] = ()) -> list[str]:
    """Heading, first sentence and arguments of a class; those of a class before it are not said again."""
    rows, names = rows_of(cls), schema_of(cls).parameters
    lines = [f"### {cls.__name__}", "", plain(inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0])]
    if aliases:
        lines.append(f"Also called {', '.join(f'`{alias}`' for alias in aliases)}.")
    kin = next(
        (base for base in ours(cls)[1:] if base in (PreparedDataset, *map(REGISTRY.__getitem__, REGISTRY))), None
    )
    if kin is not None:
        rows = [row for row in rows if row not in rows_of(kin)]
        lines.append(f"{'Further a' if rows else 'A'}rguments as in [{kin.__name__}](#{kin.__name__.lower()}).")
    if (
        {f"`{name}`" for name in names}
        - {row[0] for row in rows_of(cls)}
        - {f"`{name}`" for name in RUNTIME_PARAMETERS}
    ):
        base = next(base for base in cls.__mro__ if not base.__module__.startswith("isdfine."))
        library = base.__module__.partition(".")[0]
        lines.append(f"Further arguments as in {library}'s `{base.__name__}`.")
    return [*lines, "", *(table(("argument", "type", "default", "what it is"), rows) if rows else [])]


def grouped() -> dict[str, list[str]]:
    """Names of our registered components, each under its heading."""
    groups: dict[str, list[str]] = {heading: [] for heading in GROUPS}
    for name in sorted(REGISTRY):  # whatever was imported first
        cls = REGISTRY[name]
        if cls.__module__.startswith("isdfine.") and name == cls.__name__:
            place = cls.__module__.removeprefix("isdfine.") + "."
            groups[next(heading for heading, part in GROUPS.items() if place.startswith(part))].append(name)
    return {heading: names for heading, names in groups.items() if names}


def page() -> str:
    """The whole page."""
    slots = [
        (f"`{name}`", "list of components" if name in LIST_SLOTS else "component", purpose)
        for name, purpose in PURPOSES.items()
    ]
    groups = grouped()
    lines = [
        HEAD,
        *(f"- {heading}: " + ", ".join(f"[{name}](#{name.lower()})" for name in names)
          for heading, names in groups.items()),
        "",
        "## Settings of a run\n",
        "`epochs` and `epoches` are one key.\n",
        *settings(),
        "## Other top-level keys\n",
        *table(("key", "type", "what it is"), slots),
        "These fill arguments of the same name wherever a section does not give them:\n",
        *table(("key", "type", "what it is"),
               ((f"`{name}`", plain(describe(kind)), SHARED_TEXTS[name]) for name, kind in SHARED.items())),
        "`input_size: [height, width]` sets `Resize`, `base_size` and `eval_spatial_size`; `epochs` in a later file\n"
        "moves the schedule in proportion ([finetune.md](finetune.md)). `imports` lists modules of yours\n"
        "([extend.md](extend.md)); no checkpoint makes code run, so with them `-r` needs `-c RUN/config.yml` too.\n",
    ]  # fmt: skip
    for heading, names in groups.items():
        lines += [f"## {heading}\n"]
        for name in names:
            cls = REGISTRY[name]
            lines += component(cls, [alias for alias in sorted(REGISTRY) if REGISTRY[alias] is cls and alias != name])
        lines += component(PreparedDataset) if heading == "Data sets" else []
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
