# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What isdfine predict does: images, folders, videos and cameras in, files of detections and pictures out."""
