# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that others published, by name: where they are, and the folder that keeps them."""
