# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What isdfine convert does: one form of a trained model in, another one out, compared."""
