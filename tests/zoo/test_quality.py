# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from golden_cases import fill, load_golden
from isdfine.zoo.heads import LocationQualityEstimator


@pytest.mark.parametrize("num_bins", [16, 32])
def test_golden(num_bins: int) -> None:
    arrays, meta = load_golden("fdr_primitives.npz")
    lqe, prefix = LocationQualityEstimator(num_bins), meta["lqe"]["key_prefix"]
    state = lqe.state_dict()
    assert sorted(state) == sorted(meta["lqe"]["keys"])
    lqe.load_state_dict(
        {key: torch.from_numpy(fill.fill_array(prefix + key, tensor.shape)) for key, tensor in state.items()}
    )
    scores, corners, out = (
        torch.from_numpy(arrays[f"lqe_rm{num_bins}/{name}"]) for name in ("scores", "corners", "out")
    )
    torch.testing.assert_close(lqe(scores, corners), out, atol=2e-5, rtol=1e-4)


def test_starts_as_identity() -> None:
    logits = torch.randn(2, 3, 5)
    torch.testing.assert_close(LocationQualityEstimator(8)(logits, torch.randn(2, 3, 36)), logits, atol=0, rtol=0)


def test_class_loss_reaches_the_distributions() -> None:
    lqe = LocationQualityEstimator(8)
    torch.nn.init.normal_(lqe.reg_conf.layers[-1].weight)
    edges = torch.randn(2, 3, 36, requires_grad=True)
    lqe(torch.zeros(2, 3, 5), edges).sum().backward()
    assert edges.grad.abs().sum() > 0
