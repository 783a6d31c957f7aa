# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """Tools set up logging where they run inside a test: the next one starts without their handlers and level."""
    logger = logging.getLogger("isdfine")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(scope="module")
def small_backbone() -> Iterator[object]:
    """Most of a micro run's time goes into B0 and its checkpoints: B0 with few channels and layers inside its stages.

    Yields:
        The real B0, which processes of their own still have.
    """
    from isdfine.nn.backbone.hgnetv2 import VARIANTS
    from kills import SMALL

    real = VARIANTS["B0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "B0", SMALL._replace(results=real.results))
        yield real
