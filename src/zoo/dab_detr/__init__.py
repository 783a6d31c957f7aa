# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR and DAB-Deformable-DETR, assembled from parts."""
