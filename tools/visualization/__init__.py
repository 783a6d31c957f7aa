# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What tools/visualize.py draws: plots of an evaluation, edge distributions, attention, of chosen images.

No part of the library: Python finds it because it lies beside the script that is run.
"""
