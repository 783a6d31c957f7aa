# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Models of ``transformers`` and ours, D-FINE and RT-DETR: weights, ``config.json`` and folders, both ways."""
