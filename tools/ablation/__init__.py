# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What tools/ablate.py does: a matrix of runs from one YAML file, trained as processes, compared seed by seed.

No part of the library: Python finds it because it lies beside the script that is run.
"""
