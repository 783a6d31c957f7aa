# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: interleaved timing, the machine, memory, and models of ours and of others."""
