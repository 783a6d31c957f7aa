# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
from collections.abc import Iterator

import pytest

from isdfine.core.environment import setup_logging


@pytest.fixture
def package_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("isdfine")
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_calling_twice_writes_each_line_once(
    package_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging()
    setup_logging()
    logging.getLogger("isdfine.solver").info("step %d", 3)
    logging.getLogger("isdfine.solver").debug("hidden")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.endswith("INFO isdfine.solver: step 3\n")


def test_other_ranks_show_warnings_only(package_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(rank=2)
    logging.getLogger("isdfine.x").info("quiet")
    logging.getLogger("isdfine.x").warning("loud")
    err = capsys.readouterr().err
    assert "quiet" not in err
    assert "WARNING rank 2 isdfine.x: loud" in err
