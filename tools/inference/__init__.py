# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What tools/infer.py does: images, folders, videos and cameras in, files of detections and pictures out.

No part of the library: Python finds it because it lies beside the script that is run.
"""
