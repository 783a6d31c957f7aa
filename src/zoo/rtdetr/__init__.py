# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR and RT-DETRv2, assembled from the same parts as D-FINE."""
