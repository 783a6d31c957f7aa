# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What tools/convert_checkpoint.py does: one form of a trained model in, another one out, compared.

No part of the library: Python finds it because it lies beside the script that is run.
"""
