# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which samples form which batch on which rank: a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from . import Ints
from .dataset.detection import SampleKey

BUCKETS_PER_OCTAVE = 4
"""Of the aspect ratio width / height."""


class BatchSampler(Sampler[list[SampleKey]]):
    """Batches of sample keys.

    Global batch k of an epoch is slice k of one order of all samples; every rank takes its contiguous part of it. So W
    ranks together see what one rank with the same global batch sees.

    Args:
        num_samples: size of the data set.
        batch_size: samples per batch and rank.
        shard: (rank, world size).
        shuffle: a new seeded order in every epoch. All ranks then have equally many batches: where the last, smaller
            global batch has fewer samples than ranks, samples from the start of the order fill it up. Without shuffle
            every sample occurs exactly once, and ranks may have one batch more or less.
        drop_last: leave out the last, smaller global batch.
        seed: part of every sample key.
        buckets: one number per sample: batches hold samples of one number where there are enough of them, else of
            neighbouring ones (a sample's shape as a number keeps batches of similar shapes). Which samples make up the
            last, smaller batch does not depend on it, nor does anything promised above. Without shuffle the samples
            come in the order of their numbers. None: no buckets.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        shard: tuple[int, int],
        *,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        buckets: Sequence[int] | None = None,
    ) -> None:
        if buckets is not None and len(buckets) != num_samples:
            raise ValueError(f"{len(buckets)} bucket numbers for {num_samples} samples: give one per sample")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shard = shard
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.buckets = buckets
        self.epoch = 0
        self.start = 0
        """Batches left out at the beginning of the next pass."""

    def __len__(self) -> int:
        return self._full + (len(self._last_part(range(self._left))) > 0)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return iter(list(self._batches()))  # at once: whoever goes through it may change epoch and start meanwhile

    def _batches(self) -> Iterator[list[SampleKey]]:
        order = self._order()
        rank, world = self.shard
        total = self.batch_size * world
        for batch in range(self.start, len(self)):
            if batch < self._full:
                begin = batch * total + rank * self.batch_size
                part = order[begin : begin + self.batch_size]
            else:
                part = self._last_part(order[self._full * total :], order)
            yield [SampleKey(self.epoch, index, self.seed) for index in part]

    @property
    def _full(self) -> int:
        return self.num_samples // (self.batch_size * self.shard[1])

    @property
    def _left(self) -> int:
        return 0 if self.drop_last else self.num_samples % (self.batch_size * self.shard[1])

    def _order(self) -> list[int]:
        if not self.shuffle:
            order = list(range(self.num_samples))
            return order if self.buckets is None else sorted(order, key=self.buckets.__getitem__)
        # Mixed by a small hash: neighbouring seeds and epochs must not give related orders.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        return order if self.buckets is None else self._bucketed(order, self.buckets, generator)

    def _bucketed(self, order: list[int], buckets: Sequence[int], generator: torch.Generator) -> list[int]:
        """A random order whose full global batches are of one bucket each, as far as the buckets fill them."""
        total = self.batch_size * self.shard[1]
        whole = self._full * total  # the samples after these stay where they are: a random choice, whatever their shape
        by_bucket: dict[int, list[int]] = {}
        for sample in order[:whole]:
            by_bucket.setdefault(buckets[sample], []).append(sample)
        batches: list[list[int]] = []
        pooled: list[int] = []  # of every bucket what fills no batch, in the order of the buckets
        for _, samples in sorted(by_bucket.items()):
            filled = len(samples) // total * total
            batches += [samples[begin : begin + total] for begin in range(0, filled, total)]
            pooled += samples[filled:]
        batches += [pooled[begin : begin + total] for begin in range(0, len(pooled), total)]
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return [sample for number in shuffled for sample in batches[number]] + order[whole:]

    def _last_part(self, left: list[int] | range, order: list[int] | None = None) -> list[int]:
        """This rank's part of the last, smaller global batch."""
        rank, world = self.shard
        samples = list(left)
        if self.shuffle and 0 < len(samples) < world:
            fill = order or list(range(self.num_samples))
            samples += [fill[index % self.num_samples] for index in range(world - len(samples))]
        begin, end = (len(samples) * bound // world for bound in (rank, rank + 1))
        return samples[begin:end]


def aspect_buckets(sizes: Ints) -> list[int]:
    """A bucket number per image by aspect ratio: 0 for nearly square ones, below for portraits, above for landscapes.

    A bucket spans a quarter of an octave, so the aspect ratios of two images in it differ by at most 19 %.

    Args:
        sizes: (n, 2) height and width.
    """
    octaves = np.log2(sizes[:, 1] / sizes[:, 0])
    numbers: list[int] = np.rint(BUCKETS_PER_OCTAVE * octaves).astype(np.int64).tolist()
    return numbers
