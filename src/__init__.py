# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Train, distil, export and measure DETR-family object detectors (D-FINE and ISD-FINE)."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core import config as _config
from .core.config import Config

if TYPE_CHECKING:
    from .api.export import export as export
    from .api.run import Run as Run
    from .api.run import evaluate as evaluate
    from .api.run import train as train
    from .core.checkpoint.weights import LoadReport as LoadReport
    from .core.checkpoint.weights import load_weights as load_weights
    from .deploy.detections import Detections as Detections
    from .deploy.detector import Detector as Detector
    from .deploy.fuse import fuse as fuse

__version__ = "0.2.0"
__all__ = [
    "Config", "Detections", "Detector", "LoadReport", "Run", "evaluate", "export", "fuse", "load_config",
    "load_weights", "train",
]  # fmt: skip

# Imported on first use: `import isdfine` alone must not cost an import of torch.
_LAZY = {"LoadReport": ".core.checkpoint.weights", "load_weights": ".core.checkpoint.weights", "fuse": ".deploy.fuse"}
_LAZY |= {"Run": ".api.run", "evaluate": ".api.run", "export": ".api.export", "train": ".api.run"}
_LAZY |= {"Detections": ".deploy.detections", "Detector": ".deploy.detector"}


def load_config(path: str | Path | Config, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file with its includes, apply overrides ``a.b.c=value``, and check the result.

    Args:
        path: the file, the name of one in the package, or a config that was loaded already.
        overrides: later ones win.

    Raises:
        ConfigError: a file that cannot be read, or all unknown, missing and mistyped keys, one per line.
    """
    from . import components  # noqa: F401  # fills the registry

    return _config.load_config(path, overrides, resolvers={"num_classes": _num_classes})


def _num_classes(config: Config) -> int | None:
    from .data.label_space import num_classes_of

    return num_classes_of(config)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
