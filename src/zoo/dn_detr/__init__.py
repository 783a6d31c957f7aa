# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DN-DETR and DN-Deformable-DETR: DAB-DETR's parts, and queries that learn to remove noise."""
