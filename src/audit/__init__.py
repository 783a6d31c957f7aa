# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What isdfine data does: check, describe, convert, divide and show data sets that the library reads."""
