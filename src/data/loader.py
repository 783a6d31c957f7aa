# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Batches ready for the model: decoded in workers as bytes, finished on the device."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader as TorchLoader

from ..core import dist
from ..core.errors import ConfigError
from ..core.registry import register
from .collate import BatchImageCollateFunction, resize_batch
from .dataset.coco import CocoDetection
from .sampler import BatchPlan

Batch = tuple[Tensor, list[dict[str, Tensor]]]


@register
class DataLoader:
    """Iterate over batches of a data set: (images (B, 3, H, W) on the device, list of B target dicts).

    Batches depend on seed and epoch, never on the number of workers. With several processes every rank gets its part of
    each global batch.

    Args:
        dataset: the data set.
        collate_fn: stacks samples and chooses multi-scale sizes.
        total_batch_size: images per step over all processes; give this or batch_size.
        batch_size: images per step and process.
        shuffle: new order each epoch.
        num_workers: processes that decode; 0 decodes in this one.
        drop_last: leave out the last incomplete batch.
        prefetch_factor: batches each worker prepares ahead.
        repeat: passes over the data in one epoch, for data sets of a few images.
        seed: start of the order and of the multi-scale sizes.
    """

    def __init__(
        self,
        dataset: CocoDetection,
        collate_fn: BatchImageCollateFunction,
        *,
        total_batch_size: int | None = None,
        batch_size: int | None = None,
        shuffle: bool = False,
        num_workers: int = 0,
        drop_last: bool = False,
        prefetch_factor: int = 2,
        repeat: int = 1,
        seed: int | None = 0,
    ) -> None:
        self.dataset, self.collate_fn, self.device = dataset, collate_fn, torch.device("cpu")
        self._seed, self._num_workers, self._prefetch = seed or 0, num_workers, prefetch_factor
        size = per_rank(total_batch_size, batch_size, dist.world_size())
        self.plan = BatchPlan(
            len(dataset),
            size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=self._seed,
            rank=dist.rank(),
            world_size=dist.world_size(),
            passes=repeat,
        )
        if drop_last and not len(self.plan):
            raise ConfigError(
                f"{dataset.ann_file} has {len(dataset)} images, a batch over all processes "
                f"{size * dist.world_size()}, and drop_last leaves nothing: lower total_batch_size or raise repeat"
            )
        self._loader: TorchLoader[Any] | None = None
        conversion = getattr(dataset.transforms, "conversion", None)
        self._finish = conversion.finish if conversion is not None else lambda images: images

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        return len(self.plan)

    def to(self, device: torch.device | str) -> DataLoader:
        """Deliver batches on this device from now on."""
        self.device = torch.device(device)
        return self

    def set_epoch(self, epoch: int) -> None:
        """Order, augmentation and sizes of this epoch (0-based) from the next iteration on."""
        self.plan.epoch = epoch

    def start_at(self, batch: int) -> None:
        """Let the next iteration begin at this batch, without decoding those before it."""
        self.plan.first_batch = batch

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.plan.epoch, self.plan.first_batch
        for number, (images, targets) in enumerate(self._workers(), start=first):
            images = images.to(self.device, non_blocking=True)
            size = self.collate_fn.size_at(self._seed, epoch, number)
            ready = resize_batch(self._finish(images), size)
            yield ready, [{k: v.to(self.device, non_blocking=True) for k, v in target.items()} for target in targets]

    def _workers(self) -> TorchLoader[Any]:
        """The torch loader, made at the first use: its workers live as long as this object."""
        if self._loader is None:
            self._loader = TorchLoader(
                self.dataset,
                batch_sampler=self.plan,  # type: ignore[arg-type]
                num_workers=self._num_workers,
                collate_fn=self.collate_fn,
                pin_memory=self.device.type == "cuda",
                persistent_workers=self._num_workers > 0,
                prefetch_factor=self._prefetch if self._num_workers else None,
                worker_init_fn=_quiet_worker,
                # A generator of its own: iterating must not move the random stream of the training.
                generator=torch.Generator().manual_seed(self._seed),
            )
        return self._loader


def _quiet_worker(_worker: int) -> None:
    """One thread per worker, and signals are the main process's business: it ends its workers itself."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def per_rank(total: int | None, each: int | None, world_size: int) -> int:
    """Images per process and step.

    Raises:
        ConfigError: none or both given, or a total that does not split evenly.
    """
    if (total is None) == (each is None):
        raise ConfigError(f"a data loader needs total_batch_size or batch_size, one of them: found {total} and {each}")
    if total is not None and total % world_size:
        raise ConfigError(f"total_batch_size {total} does not split over {world_size} processes: use a multiple")
    size = each if each is not None else (total or 0) // world_size
    if size < 1:
        raise ConfigError(f"the batch size is {size}: give at least one image per process")
    return size
