# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""fp32, bf16 and fp16 through one object."""

import logging

import pytest
import torch
from torch import nn

from isdfine.core.errors import ConfigError
from isdfine.optim.precision import GradScaler, Precision


def one_step(precision: Precision, scale_loss: float = 1.0) -> tuple[nn.Linear, torch.dtype]:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with precision.autocast():
        output = model(torch.ones(2, 8))
    precision.backward(output.float().square().sum() * scale_loss)
    precision.unscale(optimizer)
    precision.step(optimizer)
    return model, output.dtype


def test_fp32_does_nothing() -> None:
    model, dtype = one_step(Precision("fp32", "cpu"))
    torch.manual_seed(0)
    plain = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    plain(torch.ones(2, 8)).square().sum().backward()
    optimizer.step()
    assert dtype == torch.float32
    assert torch.equal(model.weight, plain.weight)
    assert Precision("fp32", "cpu").scale == 1.0


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precisions_are_near_fp32(name: str, dtype: torch.dtype) -> None:
    reference, _ = one_step(Precision("fp32", "cpu"))
    scaler = GradScaler(init_scale=128.0, device="cpu") if name == "fp16" else None  # the default would overflow first
    model, output_dtype = one_step(Precision(name, "cpu", scaler))
    assert output_dtype == dtype
    torch.testing.assert_close(model.weight, reference.weight, rtol=0.02, atol=0.02)


def test_fp16_leaves_out_steps_that_overflow_and_lowers_the_scale() -> None:
    precision = Precision("fp16", "cpu", GradScaler(init_scale=1024.0, device="cpu"))
    model, _ = one_step(precision, scale_loss=float("inf"))
    torch.manual_seed(0)
    assert torch.equal(model.weight, nn.Linear(8, 4).weight)
    assert precision.scale == 512.0


def test_state_round_trip_and_change_of_precision(caplog: pytest.LogCaptureFixture) -> None:
    first = Precision("fp16", "cpu", GradScaler(init_scale=1024.0, device="cpu"))
    one_step(first, scale_loss=float("inf"))
    second = Precision("fp16", "cpu")
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    with caplog.at_level(logging.WARNING):
        second.load_state_dict(Precision("fp32", "cpu").state_dict())
    assert "trained in fp32 and continues in fp16: numbers will differ" in caplog.text
    assert second.scale == 512.0


def test_bad_names_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="precision is 'fp8': choose one of fp32, bf16, fp16"):
        Precision("fp8", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="the device is cuda but this torch sees no GPU: set device to cpu"):
        Precision("fp32", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    with pytest.raises(ConfigError, match="precision bf16: Old GPU has no bfloat16, choose fp16 or fp32"):
        Precision("bf16", "cuda")
