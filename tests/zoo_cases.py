# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Models of the DETR family for tests."""

import torch
from torch import nn


def moved(model: nn.Module) -> nn.Module:
    """A decoder away from the zeros that training starts from; eval mode."""
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if name.startswith("decoder.") and not name.endswith("reg_scale"):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()
