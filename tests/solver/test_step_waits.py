# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the host waits for in a whole training step, as tools/train.py takes it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader

import isdfine
from builders import write_micro_config
from isdfine.solver.callbacks import StopSignal
from isdfine.solver.fit import _Fit
from isdfine.solver.training import Training
from losses.test_criterion import Operators

READS = ("item", "tolist", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__")
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "bincount"}


@pytest.mark.parametrize("more", [[], ["precision=bf16", "clip_max_norm=0.1", "train_dataloader.total_batch_size=2"]])
def test_a_step_waits_for_the_matching_costs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    # what a GPU runs: the forms for CPUs work on host memory and may read
    for module in ("sampling", "backbone.hgnetv2"):
        monkeypatch.setattr(f"isdfine.nn.{module}.trains_on_cpu", lambda *_: False)
    values = ["use_ema=true", "print_freq=100", "save_every_steps=100", *more]
    fit = _Fit(Training(isdfine.load_config(write_micro_config(tmp_path, images=8), values)), [], StopSignal())
    reads: Counter[str] = Counter()
    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, _counted(name, getattr(torch.Tensor, name), reads))
    losses_of, after_step, seen = fit._losses, fit._after_step, Operators()
    steps: list[tuple[Counter[str], set[str]]] = []

    def begin(*arguments: Any) -> Any:
        """A batch is there: data workers do what came before."""
        reads.clear()
        seen.names.clear()
        seen.__enter__()
        return losses_of(*arguments)

    def end(*arguments: Any) -> None:
        after_step(*arguments)
        seen.__exit__(None, None, None)
        steps.append((+reads, WAITS & set(seen.names)))

    fit._losses, fit._after_step = begin, end  # type: ignore[method-assign]
    fit.train(0)
    assert steps == [(Counter(cpu=1), set())] * (4 if more else 2)


def _counted(name: str, original: Any, reads: Counter[str]) -> Any:
    def counted(*arguments: Any, **named: Any) -> Any:
        reads[name] += 1
        return original(*arguments, **named)

    return counted


def test_batches_reach_a_gpu_from_pinned_memory_as_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    moved: list[tuple[torch.dtype, Any]] = []
    to = torch.Tensor.to

    def start(*arguments: Any, **options: Any) -> Any:
        made.append(options)
        return TorchDataLoader(*arguments, **{**options, "pin_memory": False})

    def stay(self: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        if arguments and arguments[0] == torch.device("cuda"):
            moved.append((self.dtype, named.get("non_blocking")))
            return self
        return to(self, *arguments, **named)

    config = isdfine.load_config(write_micro_config(tmp_path, images=4))
    sizes: list[tuple[int, int] | None] = []
    loader = config.build("train_dataloader").to("cuda")
    resize = loader.collate_fn.resize

    def on_the_device(images: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
        assert moved[0][0] == images.dtype == torch.uint8
        sizes.append(size)
        return resize(images, size)

    monkeypatch.setattr("isdfine.data.loader.TorchDataLoader", start)
    monkeypatch.setattr(torch.Tensor, "to", stay)
    monkeypatch.setattr(loader.collate_fn, "resize", on_the_device)
    images, _ = next(iter(loader))
    assert made[0]["pin_memory"]
    assert len(moved) > 2
    assert all(non_blocking for _, non_blocking in moved)
    assert images.dtype == torch.float32
    assert len(sizes) == 1
