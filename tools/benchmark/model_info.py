#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""``isdfine info`` under its name in a checkout."""

import sys

from isdfine.commands import run

if __name__ == "__main__":
    sys.exit(run("info"))
