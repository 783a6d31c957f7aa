# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What tools/dataset.py does: check, describe, convert, divide and show data sets that the library reads.

No part of the library: Python finds it because it lies beside the script that is run.
"""
