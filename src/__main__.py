# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m isdfine COMMAND``, as ``torchrun -m isdfine train`` needs it."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
