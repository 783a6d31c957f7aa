# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest


@pytest.fixture(scope="module", autouse=True)
def _small(small_backbone: object) -> None:
    """Runs of the solver train a small backbone."""
