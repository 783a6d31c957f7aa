# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Batch norm over ranks equals batch norm over the whole batch."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from forked import free_port, rank_environment, start_script
from isdfine.nn.norm import SyncedBatchNorm2d, convert_sync_batchnorm

SPLITS = ((3, 3), (1, 5), (0, 6))
RANK_SCRIPT = """
import sys, torch
from isdfine.core import dist
from isdfine.nn.norm import convert_sync_batchnorm
dist.init(device="cpu")
given = torch.load(sys.argv[1], weights_only=True)
results = []
for split, momentum in given["cases"]:
    norm = torch.nn.BatchNorm2d(4, momentum=momentum)
    norm.load_state_dict(given["state"])
    norm = convert_sync_batchnorm(torch.nn.Sequential(norm), "cpu")
    start = sum(split[: dist.rank()])
    mine = given["images"][start : start + split[dist.rank()]].clone().requires_grad_()
    output = norm(mine)
    (output * given["pull"][start : start + split[dist.rank()]]).sum().backward()
    results.append(
        {"output": output.detach(), "grad": mine.grad, "weight": norm[0].weight.grad, "bias": norm[0].bias.grad,
         "state": norm[0].state_dict()}
    )
try:
    convert_sync_batchnorm(torch.nn.BatchNorm2d(4), "cpu")(torch.ones(1 - dist.rank(), 4, 1, 1))
except ValueError as error:
    assert "at least 2 values per channel over all ranks, got 1" in str(error)
else:
    raise AssertionError("one value per channel must be refused")
torch.save(results, sys.argv[1] + str(dist.rank()))
dist.shutdown()
"""


def filled_norm(momentum: float | None = 0.1) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum)
    with torch.no_grad():
        for value in norm.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return norm


def run_two_ranks(path: Path) -> list[list[dict[str, Tensor]]]:
    port, logs = free_port(), [Path(f"{path}{rank}.txt") for rank in range(2)]
    ranks = [
        start_script(RANK_SCRIPT, str(path), log=log, **rank_environment(rank, port)) for rank, log in enumerate(logs)
    ]
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0], "\n".join(log.read_text() for log in logs)
    return [torch.load(f"{path}{rank}", weights_only=True) for rank in range(2)]


def test_two_ranks_equal_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(1)
    images = torch.randn(6, 4, 3, 5) * 2 + 100  # a mean far from zero shows cancelling variances
    pull = torch.randn(6, 4, 3, 5)
    cases = [(split, momentum) for split in SPLITS for momentum in (0.1, None)]
    given = {"images": images, "pull": pull, "state": filled_norm().state_dict(), "cases": cases}
    torch.save(given, tmp_path / "given.pt")
    by_rank = run_two_ranks(tmp_path / "given.pt")
    for (_, momentum), first, second in zip(cases, *by_rank):
        norm = filled_norm(momentum)
        whole = images.clone().requires_grad_()
        output = norm(whole)
        (output * pull).sum().backward()
        close = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(torch.cat([first["output"], second["output"]]), output.detach(), **close)
        torch.testing.assert_close(torch.cat([first["grad"], second["grad"]]), whole.grad, **close)
        torch.testing.assert_close(first["weight"] + second["weight"], norm.weight.grad, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(first["bias"] + second["bias"], norm.bias.grad, **close)
        for key, value in norm.state_dict().items():
            torch.testing.assert_close(first["state"][key], value, **close)
            assert torch.equal(first["state"][key], second["state"][key])


@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_batch_norm(training: bool) -> None:
    norm = filled_norm().train(training)
    twin = copy.deepcopy(norm)
    synced = convert_sync_batchnorm(norm, "cpu")
    assert isinstance(synced, SyncedBatchNorm2d)
    images = torch.randn(2, 4, 3, 3)
    assert torch.equal(synced(images), twin(images))
    assert synced.training is training
    for key, value in twin.state_dict().items():
        assert torch.equal(synced.state_dict()[key], value)


def test_conversion_keeps_parameters_keys_and_subclasses() -> None:
    class OwnNorm(nn.BatchNorm2d):
        """Someone's special layer."""

    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=0.5, affine=False)), OwnNorm(4))
    model.append(nn.BatchNorm2d(4, track_running_stats=False))
    keys = list(model.state_dict())
    parameters = list(model.parameters())
    converted = convert_sync_batchnorm(model, "cpu")
    assert converted is model
    assert list(model.state_dict()) == keys
    assert all(mine is theirs for mine, theirs in zip(model.parameters(), parameters, strict=True))
    assert [type(model[1][0]), type(model[2]), type(model[3])] == [SyncedBatchNorm2d, OwnNorm, SyncedBatchNorm2d]
    assert model[1][0].eps == 0.5
    assert model(torch.randn(2, 4, 3, 3)).isfinite().all()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_norms_of_timm_keep_their_activation(device: str) -> None:
    norm = pytest.importorskip("timm.layers").BatchNormAct2d(4, act_layer=nn.ReLU6)
    nn.init.normal_(norm.bias)
    model = nn.Sequential(norm).eval()
    twin, images = copy.deepcopy(model), torch.randn(2, 4, 3, 3)
    converted = convert_sync_batchnorm(model, device)
    assert isinstance(converted[0], nn.SyncBatchNorm if device == "cuda" else SyncedBatchNorm2d)
    assert list(converted.state_dict()) == list(twin.state_dict())
    assert torch.equal(converted(images), twin(images))
    assert twin(images).min() == 0


def test_cuda_takes_torchs_layer() -> None:
    converted = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(4)), "cuda")
    assert isinstance(converted[0], nn.SyncBatchNorm)
