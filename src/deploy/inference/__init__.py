# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detect in anything that holds pictures, and write what was found, without keeping it in memory."""
