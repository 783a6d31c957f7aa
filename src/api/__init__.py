# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Whole jobs as one call: ``isdfine.train``, ``evaluate`` and ``export``. The commands run the same code."""
