# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Batches that are ready for the model: float images and targets on the device."""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset

from ..core import dist
from ..core.errors import ConfigError, DataError
from ..core.registry import UserModules, register
from ..nn.padding import IMAGE_SIZE
from .collate import STRIDE, BatchImageCollateFunction, CollateFunction, Size, padded_share, scaled_sizes
from .dataset.detection import DetectionDataset, SampleKey, seeded
from .sampler import BatchSampler, aspect_buckets
from .transforms.sizes import KeepAspect, RandomSizeCrop, final_sizes, sizing
from .workers import WorkerStart, deaths_reported, worker_context

logger = logging.getLogger(__name__)

MOST_WORKERS = 512
"""Processes that prepare batches, at most: each takes a second to start and a few hundred MB."""
PREFETCH = 2
"""Batches that each worker prepares ahead, where nothing else is said."""
MUCH_PADDING = 0.15
"""Share of padded pixels above which an epoch's log line says what helps (docs/method.md 10.2)."""


@register
class DataLoader:
    """Iterate over ``(images, targets)``: images (B, 3, H, W) float32 as the transforms declare them (normally in
    [0, 1]), after the multi-scale resize; targets B dicts; all on ``device``.

    What a batch holds depends on (seed, epoch, batch index) only, not on the number of workers. Workers are started
    afresh instead of forked from a process with threads, and do not import the main script: classes that it defines
    itself can be used with ``num_workers`` 0 only.

    Args:
        dataset: the samples.
        batch_size: samples per batch and process. Give this or ``total_batch_size``.
        total_batch_size: samples per batch over all processes, a multiple of their number.
        shuffle: a new order in every epoch (training); otherwise every sample exactly once over all ranks.
        num_workers: processes that prepare batches; 0 = this one.
        drop_last: leave out the last, smaller batch.
        collate_fn: stacks samples and knows the batch sizes; None = no multi-scale.
        seed: of order, augmentation and sizes.
        bucket_by_aspect: make batches of images of similar aspect ratio, so that padded batches hold little padding.
            Without shuffle images then come in the order of their aspect ratios.
        prefetch_factor: batches that each worker prepares ahead, 1 or more.
        shard: (rank, world size); None = this process's.

    Raises:
        ConfigError: batch sizes that contradict each other or the number of processes, too few samples, or a
            shuffled (training) data set whose boxes are not converted, images resized to no multiple of 32 or to
            several sizes where ``collate_fn`` does not pad.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        batch_size: int | None = None,
        total_batch_size: int | None = None,
        shuffle: bool = False,
        num_workers: int = 0,
        drop_last: bool = False,
        collate_fn: CollateFunction | None = None,
        seed: int = 0,
        *,
        bucket_by_aspect: bool = False,
        prefetch_factor: int = PREFETCH,
        shard: tuple[int, int] | None = None,
    ) -> None:
        shard = shard or (dist.rank(), dist.world_size())
        per_rank = _batch_size_per_rank(batch_size, total_batch_size, shard[1])
        if not 0 <= num_workers <= MOST_WORKERS:
            raise ConfigError(f"DataLoader: num_workers is {num_workers}: give 0 to {MOST_WORKERS}")
        if not 0 <= seed < 2**63:
            raise ConfigError(f"DataLoader: seed is {seed}: give 0 or more, less than 2**63")
        if not 1 <= prefetch_factor <= 1000:
            raise ConfigError(f"DataLoader: prefetch_factor is {prefetch_factor}: give 1 to 1000 batches a worker")
        if drop_last and len(dataset) < per_rank * shard[1]:
            raise ConfigError(
                f"DataLoader: {len(dataset)} samples do not fill one batch of {per_rank * shard[1]} and drop_last "
                "leaves smaller ones out, so there is nothing to do: lower total_batch_size, or set drop_last: False"
            )
        if shuffle and not dataset.boxes_normalized:
            raise ConfigError(
                "DataLoader: shuffle: True means training, but the transforms leave boxes in pixels: "
                "add {type: ConvertBoxes, fmt: cxcywh, normalize: True} as the last of transforms.ops"
            )
        self.dataset = dataset
        self.collate_fn = collate_fn or BatchImageCollateFunction()
        _check_image_size(dataset, self.collate_fn)
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.seed = seed
        self.device = torch.device("cpu")
        self.epoch = 0
        self.views: int | None = None
        """After how many epochs a stage of training shows the same batches again; None: never."""
        self._under_way: tuple[int, list[Shown]] | None = None
        self.sampler = BatchSampler(
            len(dataset),
            per_rank,
            shard,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            buckets=aspect_buckets(dataset.annotations.sizes) if bucket_by_aspect else None,
        )
        self._workers: TorchDataLoader[Any] | None = None
        if way := dataset.transforms.describe():
            logger.info("%s: augmentation runs %s", dataset.annotations.place, way)

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        return len(self.sampler)

    @property
    def even(self) -> bool:
        """Whether every rank is sure to have the same number of batches."""
        return self.sampler.shuffle or self.sampler.drop_last

    @property
    def batch_sizes(self) -> list[Size]:
        """(height, width) of batches, each as often as it is drawn; of a padded batch the largest canvas there can be.

        Multi-scale sizes come first, the size of batches without it last.
        """
        shapes = np.unique(self.dataset.annotations.sizes, axis=0)
        sides = final_sizes(self.dataset.transforms.ops, shapes).max(axis=0).tolist()
        height, width = (-(-side // self.collate_fn.stride) * self.collate_fn.stride for side in sides)
        return [*self.collate_fn.sizes_of((height, width)), (height, width)]

    @property
    def largest_size(self) -> Size:
        """The size of a batch with the most pixels."""
        return max(self.batch_sizes, key=lambda size: size[0] * size[1])

    def to(self, device: torch.device | str) -> DataLoader:
        """Deliver to another device from the next pass on; returns itself."""
        self.device = torch.device(device)
        self.close()
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose order, augmentation and sizes of the next pass."""
        self.epoch = epoch
        begins = [first for first in (self.dataset.transforms.stop_epoch, self.collate_fn.stop_epoch) if first]
        stage = max((first for first in begins if first <= epoch), default=0)
        self.sampler.epoch = epoch if self.views is None else stage + (epoch - stage) % self.views

    def shown(self, images: Tensor) -> list[Shown] | None:
        """What tells the images of the batch under way apart; None for any other images."""
        known = self._under_way is not None and self._under_way[0] == images.data_ptr()
        return self._under_way[1] if self._under_way is not None and known else None

    def start_at(self, batch_index: int) -> None:
        """Let the next pass, and only that, begin with batch ``batch_index``; the batches before are not even decoded.

        Raises:
            ValueError: no such batch (one past the last is allowed and gives an empty pass).
        """
        if not 0 <= batch_index <= len(self):
            raise ValueError(
                f"cannot start at batch {batch_index} of {len(self)}: has the data set or the batch size changed?"
            )
        self.sampler.start = batch_index

    def __iter__(self) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
        if self._workers is None:
            self._workers = self._start()
        epoch, first = self.sampler.epoch, self.sampler.start
        padded: list[float] = []  # share of every batch
        with deaths_reported(self._workers):
            packed = iter(self._workers)
            self.sampler.start = 0
            try:
                for batch_index, batch in enumerate(packed, first):
                    if isinstance(batch, _Failure):
                        raise DataError(batch.message)
                    height, width = batch.images.shape[-2:]
                    if IMAGE_SIZE in batch.values:
                        padded.append(padded_share(batch.values[IMAGE_SIZE].view(-1, 2), (height, width)))
                    yield self._ready(batch, self.collate_fn.size_at(self.seed, epoch, batch_index, (height, width)))
            finally:
                self._under_way = None
        if padded and self.sampler.shuffle:
            self._report_padding(self.epoch, sum(padded) / len(padded))

    def close(self) -> None:
        """End the worker processes; the next pass starts new ones."""
        self._workers = None

    def _ready(self, batch: _Packed, size: tuple[int, int] | None) -> tuple[Tensor, list[dict[str, Tensor]]]:
        images = batch.images.to(self.device, non_blocking=True)
        images = self.dataset.pixels(self.collate_fn.resize(images, size))
        values = batch.values
        if size is not None and IMAGE_SIZE in values:
            height, width = batch.images.shape[-2:]
            scaled = scaled_sizes(values[IMAGE_SIZE].view(-1, 2), (height, width), size)
            values = {**values, IMAGE_SIZE: scaled.flatten()}
        canvas = (images.shape[-2], images.shape[-1])
        sizes = values[IMAGE_SIZE].view(-1, 2).tolist() if IMAGE_SIZE in values else [canvas] * len(images)
        shown = [Shown(*key[:2], canvas, (float(h), float(w))) for key, (h, w) in zip(batch.keys, sizes)]
        self._under_way = images.data_ptr(), shown
        parts = [value.to(self.device, non_blocking=True).split(batch.rows[name]) for name, value in values.items()]
        return images, [dict(zip(values, entries)) for entries in zip(*parts)]  # views, an image each

    def _report_padding(self, epoch: int, share: float) -> None:
        shapes = set(aspect_buckets(self.dataset.annotations.sizes))
        helps = share > MUCH_PADDING and len(shapes) > 1 and self.sampler.buckets is None
        advice = ": bucket_by_aspect: True in the data loader lowers it" if helps else ""
        logger.info("epoch %d: %.1f %% of the pixels were padding%s", epoch, 100 * share, advice)

    def _start(self) -> TorchDataLoader[Any]:
        options: dict[str, Any] = {}
        if self.num_workers:
            atexit.register(_close, weakref.ref(self))  # before the interpreter tears modules down
            options = {
                "multiprocessing_context": worker_context(),
                "persistent_workers": True,
                "prefetch_factor": self.prefetch_factor,
                "worker_init_fn": WorkerStart(os.getpid()),
            }
        return TorchDataLoader(
            _Batches(self.dataset, self.collate_fn),
            batch_size=None,  # the sampler's items are whole batches already
            sampler=self.sampler,
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(self.seed),  # torch's loader draws from the global one otherwise
            **options,
        )


def _batch_size_per_rank(batch_size: int | None, total_batch_size: int | None, world: int) -> int:
    if (batch_size is None) == (total_batch_size is None):
        raise ConfigError(
            f"DataLoader: batch_size is {batch_size} and total_batch_size is {total_batch_size}: give exactly one of "
            "them (per process, or over all processes)"
        )
    wanted = batch_size if batch_size is not None else total_batch_size
    if wanted is None or wanted < 1:
        raise ConfigError(f"DataLoader: a batch of {wanted} samples: give 1 or more")
    if batch_size is not None:
        return batch_size
    if wanted % world:
        raise ConfigError(
            f"DataLoader: total_batch_size {wanted} cannot be shared by {world} processes: use a multiple of {world}"
        )
    return wanted // world


def _check_image_size(dataset: DetectionDataset, collate_fn: CollateFunction) -> None:
    """Refuse images that the strides of a detector do not divide; the last op that sets a size decides."""
    if collate_fn.takes_any_size:
        return
    for op in sizing(dataset.transforms.ops):
        if isinstance(op, (KeepAspect, RandomSizeCrop)):
            reason = "keeps the aspect ratio" if isinstance(op, KeepAspect) else "draws every size"
            raise ConfigError(
                f"DataLoader: {type(op).__name__} {reason}, so images differ in size, but "
                f"{type(collate_fn).__name__} stacks images of one size: use collate_fn: {{type: "
                "PaddedBatchCollateFunction}, or add PadToSize after it in transforms.ops"
            )
        if any(side % STRIDE for side in op.size):
            nearest = [max(STRIDE, round(side / STRIDE) * STRIDE) for side in op.size]
            raise ConfigError(
                f"DataLoader: the transforms end with {type(op).__name__} to {list(op.size)}: both sides "
                f"must be multiples of {STRIDE}, for example {nearest}"
            )


class Shown(NamedTuple):
    """Which pixels of a data set an image of a batch has, for one seed: equal ones for equal values, whatever the batch
    holds beside it."""

    epoch: int
    sample: int
    canvas: Size
    size: tuple[float, float]
    """(height, width) in pixels inside the canvas."""


class _Packed(NamedTuple):
    """A batch on its way from a worker: few tensors, because each one costs a file descriptor and a transfer."""

    images: Tensor
    values: dict[str, Tensor]
    """Target entries of all images, concatenated along their first dimension."""
    rows: dict[str, list[int]]
    """How many rows each image has in them."""
    keys: Sequence[SampleKey]


class _Failure(NamedTuple):
    """A DataError on its way from a worker; raised as it is, without torch's worker traceback around the message."""

    message: str


class _Batches(Dataset[Any]):
    """Whole batches by their sample keys: what a worker holds."""

    def __init__(self, dataset: DetectionDataset, collate_fn: CollateFunction) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn

    def __getstate__(self) -> dict[str, Any]:
        return {"modules": UserModules(), **self.__dict__}  # first: what follows may be of their classes

    def __getitem__(self, keys: Sequence[SampleKey]) -> _Packed | _Failure:
        try:
            samples = [self.dataset[key] for key in keys]
            epoch, sample, seed = keys[0]
            with seeded(seed, epoch, -1 - sample):  # of users' collate functions; no sample has a negative index
                images, targets = self.collate_fn(samples)
        except DataError as error:
            return _Failure(str(error))
        names = targets[0]
        rows = {name: [len(target[name]) for target in targets] for name in names}
        return _Packed(images, {name: torch.cat([target[name] for target in targets]) for name in names}, rows, keys)


def _unchanged(batch: Any) -> Any:
    return batch


def _close(loader: weakref.ref[DataLoader]) -> None:
    if (alive := loader()) is not None:
        alive.close()
