# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from itertools import chain

import pytest

from isdfine.data.sampler import BatchSampler


def batches(samples, batch, shard=(0, 1), *, shuffle=True, drop_last=False, epoch=0, seed=0, start=0):
    sampler = BatchSampler(samples, batch, shard, shuffle=shuffle, drop_last=drop_last, seed=seed)
    sampler.epoch, sampler.start = epoch, start
    found = list(sampler)
    assert len(found) == len(sampler) - start
    assert all((key.epoch, key.seed) == (epoch, seed) for batch in found for key in batch)
    return [[key.sample for key in batch] for batch in found]


def test_every_sample_once_in_a_new_order():
    one, two = batches(10, 4, epoch=0), batches(10, 4, epoch=1)
    assert [len(batch) for batch in one] == [4, 4, 2]
    assert sorted(chain(*one)) == sorted(chain(*two)) == list(range(10))
    assert one != two
    assert one == batches(10, 4, epoch=0)
    assert one != batches(10, 4, seed=1)


def test_without_shuffle_in_order():
    assert batches(5, 2, shuffle=False) == [[0, 1], [2, 3], [4]]
    assert batches(5, 2, shuffle=False, drop_last=True) == [[0, 1], [2, 3]]


def test_a_later_start_gives_the_same_batches():
    assert batches(10, 4, start=2) == batches(10, 4)[2:]
    assert batches(10, 4, start=3) == []


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("samples", [16, 19, 22])
def test_ranks_together_see_what_one_rank_sees(samples, drop_last, shuffle):
    options = {"shuffle": shuffle, "drop_last": drop_last}
    alone = batches(samples, 8, **options)
    ranks = [batches(samples, 2, (rank, 4), **options) for rank in range(4)]
    if shuffle:
        assert len({len(rank) for rank in ranks}) == 1
    joined = [list(chain(*(rank[k] for rank in ranks if k < len(rank)))) for k in range(len(alone))]
    filled = shuffle and not drop_last and samples == 19
    if filled:  # 3 samples left for 4 ranks: one from the start of the order comes along
        assert joined[-1] == alone[-1] + alone[0][:1]
        joined[-1] = joined[-1][:3]
    assert joined == alone


@pytest.mark.parametrize("samples", range(1, 12))
def test_evaluation_sees_every_sample_exactly_once(samples):
    ranks = [chain(*batches(samples, 2, (rank, 3), shuffle=False)) for rank in range(3)]
    assert sorted(chain(*ranks)) == list(range(samples))


def test_fewer_samples_than_ranks():
    ranks = [batches(1, 2, (rank, 3)) for rank in range(3)]
    assert ranks == [[[0]]] * 3
