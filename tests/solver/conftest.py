# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

import pytest

from isdfine.nn.backbone.hgnetv2 import VARIANTS, Variant
from kills import SMALL


@pytest.fixture(scope="module", autouse=True)
def small_backbone() -> Iterator[Variant]:
    """Most of a micro run's time goes into B0 and its checkpoints: B0 with few channels and layers inside its stages.

    Yields:
        The real B0, which processes of their own still have.
    """
    real = VARIANTS["B0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "B0", SMALL._replace(results=real.results))
        yield real
