# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable-DETR (arXiv 2010.04159): plain, with box refinement, in two stages."""
