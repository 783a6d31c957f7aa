# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which images form which batch: a pure function of seed, epoch and rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

Key = tuple[int, int]


class BatchPlan(Sampler[list[Key]]):
    """Batches of (epoch, index) for one rank.

    Global batch k of an epoch is a slice of one permutation, and every rank takes its part of that slice: W ranks see
    together what one rank with the same total batch sees. Where the last batch is kept, evaluation shards may be uneven
    and nothing is repeated; ``even`` cuts the last global batch so that every rank gets as many batches.

    Args:
        length: images of the data set.
        batch_size: images per rank and batch.
        shuffle: new order each epoch; else file order.
        drop_last: leave out the last incomplete global batch.
        seed: start of the permutations.
        rank, world_size: this process and how many there are.
        passes: how often an epoch goes through the data.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        rank: int,
        world_size: int,
        passes: int = 1,
    ) -> None:
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.rank, self.world_size, self.passes = rank, world_size, passes
        self.epoch = 0
        self.first_batch = 0
        total = length * passes
        whole = total // (batch_size * world_size)
        rest = 0 if drop_last else total - whole * batch_size * world_size
        self._batches = whole + (1 if rest > rank else 0)
        if shuffle and rest:  # in training every rank takes as many steps
            self._batches = whole + (1 if rest >= world_size else 0)

    def __len__(self) -> int:
        """Batches of an epoch on this rank, whatever ``first_batch`` is."""
        return self._batches

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order()
        first, self.first_batch = self.first_batch, 0
        for batch in range(first, self._batches):
            yield [(self.epoch, index) for index in self._part(order, batch)]

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.length)) * self.passes
        orders = []
        for one in range(self.passes):
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) * 1009 + one)
            orders += torch.randperm(self.length, generator=generator).tolist()
        return orders

    def _part(self, order: list[int], batch: int) -> list[int]:
        size = self.batch_size * self.world_size
        together = order[batch * size : (batch + 1) * size]
        share, extra = divmod(len(together), self.world_size)
        start = self.rank * share + min(self.rank, extra)
        return together[start : start + share + (1 if self.rank < extra else 0)]
