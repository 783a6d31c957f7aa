# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import torch

from golden_cases import fill, load_golden
from isdfine.zoo.decoder_layer import ResidualNorm, TargetGate


def test_golden() -> None:
    arrays, meta = load_golden("fdr_primitives.npz")
    gate = TargetGate(meta["gate"]["d_model"])
    prefix = meta["gate"]["key_prefix"]
    state = gate.state_dict()
    assert sorted(state) == sorted(meta["gate"]["keys"])
    gate.load_state_dict(
        {key: torch.from_numpy(fill.fill_array(prefix + key, tensor.shape)) for key, tensor in state.items()}
    )
    out = gate(torch.from_numpy(arrays["gate/x1"]), torch.from_numpy(arrays["gate/x2"]))
    torch.testing.assert_close(out, torch.from_numpy(arrays["gate/out"]), atol=2e-5, rtol=1e-4)


def test_starts_as_normalised_mean() -> None:
    gate = TargetGate(8)
    queries, update = torch.randn(2, 3, 4, 8)
    torch.testing.assert_close(gate(queries, update), gate.norm((queries + update) / 2))


def test_residual_is_the_norm_of_the_sum() -> None:
    torch.manual_seed(0)
    merge = ResidualNorm(8)
    queries, update = torch.randn(2, 2, 3, 8)
    want = torch.nn.functional.layer_norm(queries + update, (8,))
    torch.testing.assert_close(merge(queries, update), want)
    assert list(merge.state_dict()) == ["weight", "bias"]
