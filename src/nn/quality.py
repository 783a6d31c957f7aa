# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Location quality estimator (LQE): sharp edge distributions raise the class scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .mlp import MLP


class LocationQualityEstimator(nn.Module):
    """Add one learned scalar per query to its class logits, computed from how peaked its four edges are.

    Per edge the ``top_k`` largest probabilities and their mean are the evidence. Nothing is detached: the class loss
    reaches the distributions. The last layer starts at zero, so the estimator starts as identity.

    Args:
        num_bins: N, highest bin index of an edge distribution.
        top_k: largest probabilities read per edge.
        hidden_dim, num_layers: size of the perceptron (checkpoint key ``reg_conf``).

    Shapes: logits (..., C) and edge logits (..., 4 * (N + 1)) -> logits (..., C).
    """

    def __init__(self, num_bins: int, *, top_k: int = 4, hidden_dim: int = 64, num_layers: int = 2) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.top_k = top_k
        self.reg_conf = MLP(4 * (top_k + 1), hidden_dim, 1, num_layers).start_at_zero()

    def forward(self, logits: Tensor, edge_logits: Tensor) -> Tensor:
        per_edge = edge_logits.unflatten(-1, (4, self.num_bins + 1)).float().softmax(dim=-1)
        peaks = per_edge.topk(self.top_k, dim=-1).values  # (..., 4, top_k)
        evidence = torch.cat((peaks, peaks.mean(dim=-1, keepdim=True)), dim=-1)
        return logits + self.reg_conf(evidence.flatten(-2))
