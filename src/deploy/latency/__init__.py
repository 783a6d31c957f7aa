# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How long detectors take: models of ours and of others, in turns, with the machine they ran on."""
