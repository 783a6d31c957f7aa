# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What isdfine visualize draws: plots of an evaluation, edge distributions, attention, of chosen images."""
