# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the scripts beside this folder share: interleaved timing, the machine, memory, and models of ours and of others.

No part of the library: Python finds it because it lies beside the script that is run.
"""
