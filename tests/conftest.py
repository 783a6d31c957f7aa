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
