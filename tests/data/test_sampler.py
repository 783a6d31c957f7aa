# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from itertools import chain

import numpy as np
import pytest

from isdfine.data.sampler import BatchSampler, aspect_buckets


def batches(samples, batch, shard=(0, 1), *, shuffle=True, drop_last=False, epoch=0, seed=0, start=0, buckets=None):
    sampler = BatchSampler(samples, batch, shard, shuffle=shuffle, drop_last=drop_last, seed=seed, buckets=buckets)
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


@pytest.mark.parametrize("bucketed", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("samples", [16, 19, 22])
def test_ranks_together_see_what_one_rank_sees(samples, drop_last, shuffle, bucketed):
    options = {"shuffle": shuffle, "drop_last": drop_last, "buckets": [k % 3 for k in range(samples)]}
    options |= {} if bucketed else {"buckets": None}
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


SHAPES = [0] * 20 + [1] * 7 + [-2] * 11 + [5] * 2  # 40 samples


def test_batches_hold_one_shape_as_far_as_there_are_enough():
    found = batches(40, 4, buckets=SHAPES)
    shapes = [sorted({SHAPES[sample] for sample in batch}) for batch in found]
    assert sorted(chain(*found)) == list(range(40))
    assert sum(len(shape) == 1 for shape in shapes) >= 8  # 5 + 1 + 2 + 0 full ones
    assert sorted(map(len, shapes))[-1] <= 3
    assert [batch for batch in found if SHAPES[batch[0]] == 0] != [list(range(k, k + 4)) for k in range(0, 20, 4)]


def test_batches_of_different_shapes_come_in_no_order():
    found = batches(80, 4, buckets=[0] * 40 + [1] * 40)
    order = [batch[0] >= 40 for batch in found]
    assert sorted(order) == [False] * 10 + [True] * 10
    assert order not in (sorted(order), sorted(order, reverse=True))


def test_what_fills_no_batch_is_pooled_with_its_neighbours():
    for epoch in range(9):
        found = batches(8, 4, buckets=[3, 0, 0, 3, 2, 1, 1, 2], epoch=epoch)
        assert sorted(sorted(batch) for batch in found) == [[0, 3, 4, 7], [1, 2, 5, 6]]


def test_buckets_are_a_function_of_seed_and_epoch():
    one = batches(40, 4, buckets=SHAPES)
    assert one == batches(40, 4, buckets=SHAPES)
    assert one != batches(40, 4, buckets=SHAPES, epoch=1)
    assert one != batches(40, 4, buckets=SHAPES, seed=1)
    assert batches(40, 4, buckets=SHAPES, start=7) == one[7:]


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_same_samples_are_left_for_the_end_with_and_without_buckets(drop_last):
    """So a rare shape is not always the one that is left out."""
    shapes = [*SHAPES, 9, 9]
    for epoch in range(5):
        plain = batches(42, 4, epoch=epoch, drop_last=drop_last)
        bucketed = batches(42, 4, epoch=epoch, drop_last=drop_last, buckets=shapes)
        assert [len(batch) for batch in bucketed] == [len(batch) for batch in plain]
        assert sorted(chain(*bucketed)) == sorted(chain(*plain))
        if not drop_last:
            assert bucketed[-1] == plain[-1]


def test_one_bucket_still_shuffles():
    order = list(chain(*batches(40, 4, buckets=[0] * 40)))
    assert sorted(order) == list(range(40)) != order


def test_without_shuffle_shapes_come_in_order():
    assert batches(5, 2, shuffle=False, buckets=[1, 0, 1, 0, 0]) == [[1, 3], [4, 0], [2]]


def test_one_bucket_number_per_sample():
    with pytest.raises(ValueError, match="3 bucket numbers for 5 samples: give one per sample"):
        batches(5, 2, buckets=[0, 1, 2])


def test_aspect_buckets():
    sizes = np.array([[100, 100], [100, 108], [108, 100], [480, 640], [640, 480], [720, 1280], [100, 200], [200, 100]])
    assert aspect_buckets(sizes) == [0, 0, 0, 2, -2, 3, 4, -4]
