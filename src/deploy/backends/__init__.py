# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What runs a detector: PyTorch, ONNX Runtime, TensorRT, behind one interface."""
