# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds a job that is called from Python: its config, its log, and a process that is afterwards as before."""

from __future__ import annotations

import atexit
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ..core import dist
from ..core.config import Config
from ..core.environment import logged
from ..core.errors import ConfigError
from ..solver.checkpoint import rng_state, set_rng_state
from ..solver.solver import compare_configs
from ..weights.cache import located

logger = logging.getLogger(__name__)


def overrides(update: Iterable[str] = (), data: str | Path | None = None, **named: Any) -> list[str]:
    """Overrides for ``load_config``: what is found in the data, then ``update``, then what has a name of its own.

    Args:
        update: texts ``a.b.c=value``.
        data: folder of a data set in any layout (``audit.found``); what was found is logged.
        named: values of keys of the config; None leaves the config's own.

    Raises:
        ConfigError: ``update`` is a text or a mapping.
        DataError: nothing that can be trained on in the folder.
    """
    if isinstance(update, (str, dict)):
        raise ConfigError(f'update is {update!r}: give a list of texts, as in update=["optimizer.lr=1e-4"]')
    values: dict[str, Any] = {}
    if data is not None:
        from ..audit.found import find_data

        found = find_data(data)  # one draw for runs of all seeds
        values = found.overrides
        if os.environ.get("RANK", "0") == "0":
            for line in found.lines:
                logger.info("%s", line)
    given = {key: value for key, value in named.items() if value is not None}
    if "resume" in given:  # what the caller starts from replaces what the file does
        given.setdefault("tuning", None)
    if "tuning" in given:
        given.setdefault("resume", None)
    return [*_texts(values), *update, *_texts(given)]


def _texts(values: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value, default=str, ensure_ascii=False)}" for key, value in values.items()]


@contextmanager
def session() -> Iterator[None]:
    """Around a job: its lines are logged, and random generators and Pillow's limit of pixels are put back after it."""
    random, pixels = rng_state(), Image.MAX_IMAGE_PIXELS
    try:
        with logged(int(os.environ.get("RANK", "0"))):
            yield
    finally:
        set_rng_state(random)
        Image.MAX_IMAGE_PIXELS = pixels


def join(config: Config) -> None:
    """Under torchrun: the process joins the group, and ends when torchrun is gone."""
    if start := config.settings.resume or config.settings.tuning:
        located(start)  # a download may take longer than ranks wait for each other
    dist.init("cpu" if (config.settings.device or "").startswith("cpu") else None)
    dist.follow_launcher()


@contextmanager
def group(config: Config, job: str) -> Iterator[None]:
    """Under torchrun: the process joins the group, whose ranks must all do the same job.

    It stays in it for later jobs; the group is left when the process ends, unless a job has failed.
    """
    atexit.unregister(dist.shutdown)
    join(config)
    try:
        with dist.naming_ranks():
            compare_configs(config, job)
            yield
    except BaseException as error:
        dist.leave(f"{type(error).__name__}: {error}")
        raise
    atexit.register(dist.shutdown)
