# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
import os
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: threads of all of them would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """Tools set up logging where they run inside a test: the next one starts without their handlers and level."""
    logger = logging.getLogger("isdfine")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
