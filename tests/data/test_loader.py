# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
import multiprocessing
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from data import coco_files
from isdfine.core.errors import ConfigError, DataError
from isdfine.data.collate import BatchImageCollateFunction, PaddedBatchCollateFunction, padded_share
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.dataset.images import limit_pixels
from isdfine.data.loader import DataLoader
from isdfine.data.sampler import BatchSampler, aspect_buckets
from isdfine.data.transforms import (
    Compose,
    ConvertBoxes,
    ConvertPILImage,
    PadToSize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomIoUCrop,
    RandomPhotometricDistort,
    RandomZoomOut,
    Resize,
    ResizeShortestEdge,
    ResizeToFit,
    SanitizeBoundingBoxes,
)


def official_ops(scale=True):
    return [
        RandomPhotometricDistort(p=0.5),
        RandomZoomOut(fill=0),
        RandomIoUCrop(p=0.8),
        SanitizeBoundingBoxes(min_size=1),
        RandomHorizontalFlip(),
        Resize((96, 96)),
        SanitizeBoundingBoxes(min_size=1),
        ConvertPILImage(dtype="float32", scale=scale),
        ConvertBoxes(fmt="cxcywh", normalize=True),
    ]


def pages(ops=None, policy=None):
    folder = coco_files.TINY
    transforms = Compose(official_ops() if ops is None else ops, policy)
    return CocoDetection(str(folder / "train"), str(folder / "annotations" / "train.json"), transforms)


def loader(dataset=None, **options):
    options = {"total_batch_size": 5, "shuffle": True, "collate_fn": BatchImageCollateFunction(96, 2), **options}
    return DataLoader(pages() if dataset is None else dataset, **options)


def passes(one, epochs=(0, 1)):
    found = []
    for epoch in epochs:
        one.set_epoch(epoch)
        found += list(one)
    one.close()
    return found


def assert_equal_batches(ours, theirs):
    assert len(ours) == len(theirs)
    for (images, targets), (other_images, other_targets) in zip(ours, theirs):
        assert torch.equal(images, other_images)
        for target, other in zip(targets, other_targets, strict=True):
            assert target.keys() == other.keys()
            assert all(torch.equal(value, other[name]) for name, value in target.items())


def test_ready_batches():
    one = loader()
    assert len(one) == 5
    found = passes(one, epochs=[0])
    assert [len(targets) for _, targets in found] == [5, 5, 5, 5, 4]
    for index, (images, targets) in enumerate(found):
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert 0.5 < images.max() <= 1
        assert tuple(images.shape[-2:]) == one.collate_fn.size_at(0, 0, index)
        for target in targets:
            assert target["boxes"].shape == (len(target["labels"]), 4)
            assert ((target["boxes"] >= 0) & (target["boxes"] <= 1)).all()
    assert len({images.shape for images, _ in found}) > 1
    assert len({int(target["image_id"]) for _, targets in found for target in targets}) == 24


def test_unscaled_pixels_where_the_transforms_say_so():
    scaled = next(iter(loader(pages(official_ops()))))[0]
    plain = next(iter(loader(pages(official_ops(scale=False)))))[0]
    assert plain.max() > 100
    assert torch.equal(plain / 255.0, scaled)


def test_any_number_of_workers_gives_the_same_batches():
    policy = {"name": "stop_epoch", "epoch": 1, "ops": ["RandomZoomOut", "RandomIoUCrop"]}
    reference = passes(loader(pages(policy=policy), num_workers=0))
    for workers in (1, 2):
        assert_equal_batches(passes(loader(pages(policy=policy), num_workers=workers)), reference)


class Drawing(BatchImageCollateFunction):
    """Draws from every generator, as mixing images does."""

    def __call__(self, samples):
        images, targets = super().__call__(samples)
        drawn = torch.tensor([random.random(), np.random.rand(), torch.rand(1).item()])
        return images, [{**target, "drawn": drawn} for target in targets]


def test_what_collating_draws_depends_on_seed_and_batch_only():
    found = [
        [targets[0]["drawn"] for _, targets in passes(loader(collate_fn=Drawing(), num_workers=workers, seed=seed))]
        for workers, seed in ((0, 0), (2, 0), (0, 1))
    ]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], found[1], strict=True))
    assert len({float(value) for drawn in (found[0], found[2]) for row in drawn for value in row}) == 2 * 10 * 3


def test_two_ranks_see_what_one_sees():
    alone = passes(loader(total_batch_size=8))
    ranks = [passes(loader(total_batch_size=8, shard=(rank, 2))) for rank in range(2)]
    joined = [(torch.cat([a[0], b[0]]), a[1] + b[1]) for a, b in zip(*ranks, strict=True)]
    assert_equal_batches(joined, alone)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_later_start_is_for_one_pass_only(workers):
    whole = passes(loader(), epochs=[3])
    one = loader(num_workers=workers)
    one.set_epoch(3)
    one.start_at(3)
    assert len(one) == 5
    assert_equal_batches(list(one), whole[3:])
    assert_equal_batches(list(one), whole)
    one.start_at(5)
    assert list(one) == []
    with pytest.raises(ValueError, match="cannot start at batch 6 of 5: has the data set or the batch size changed"):
        one.start_at(6)
    one.close()


def test_an_abandoned_pass_does_not_leak_into_the_next():
    one = loader(num_workers=1)
    for _ in one:
        break
    one.set_epoch(1)
    assert_equal_batches(list(one), passes(loader(), epochs=[1]))
    one.close()


def test_global_random_state_is_not_touched():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    passes(loader())
    assert torch.equal(torch.rand(3), expected)


def test_evaluation_targets_keep_pixels_and_sizes():
    one = loader(pages([Resize((64, 96)), ConvertPILImage()]), shuffle=False, collate_fn=None)
    images, targets = next(iter(one))
    assert images.shape == (5, 3, 64, 96)
    assert [int(target["image_id"]) for target in targets] == one.dataset.annotations.image_ids[:5].tolist()
    assert targets[0]["orig_size"].tolist() == one.dataset.annotations.sizes[0].tolist()
    assert targets[0]["boxes"].max() > 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_stops_the_pass_with_its_own_message(tmp_path, workers):
    root, path = coco_files.write(tmp_path)
    transforms = Compose([Resize((32, 32)), ConvertPILImage(), ConvertBoxes()])
    dataset = CocoDetection(str(root), str(path), transforms)
    (root / "a.png").write_bytes(b"no image")
    one = DataLoader(dataset, batch_size=2, num_workers=workers)
    with pytest.raises(DataError, match=r"^\S*a.png: cannot be decoded .* wanted for image 7 of \S*annotations.json"):
        next(iter(one))
    one.close()


class Failing(ConvertPILImage):
    """A bug in a transform."""

    def transform(self, inpt, params):
        raise RuntimeError("the transform has a bug")


def test_any_other_error_of_a_worker_keeps_its_message():
    one = loader(pages([Resize((32, 32)), Failing(), ConvertBoxes()]), num_workers=1)
    with pytest.raises(RuntimeError, match="the transform has a bug"):
        next(iter(one))
    one.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs sigwaitinfo")
@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_workers_outlive_the_signals_that_end_a_run(signal):
    one = loader(num_workers=1)
    running = iter(one)
    next(running)
    worker = multiprocessing.active_children()[-1]
    subprocess.run(["kill", f"-{signal}", str(worker.pid)], check=True)
    time.sleep(0.1)
    assert len(list(running)) == 4
    assert worker.is_alive()
    worker.terminate()  # by the main process: obeyed
    worker.join(10)
    assert not worker.is_alive()


def test_workers_end_with_the_loader():
    one = loader(num_workers=1)
    next(iter(one))
    worker = multiprocessing.active_children()[-1]
    one.close()
    worker.join(10)
    assert not worker.is_alive()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 2}, "batch_size is 2 and total_batch_size is 5: give exactly one of them"),
        ({"total_batch_size": None}, "batch_size is None and total_batch_size is None"),
        ({"shard": (0, 2)}, "total_batch_size 5 cannot be shared by 2 processes: use a multiple of 2"),
        ({"total_batch_size": 0}, "a batch of 0 samples: give 1 or more"),
        ({"num_workers": -1}, "num_workers is -1: give 0 to 512"),
        ({"prefetch_factor": 10**8}, "prefetch_factor is 100000000: give 1 to 1000"),
        ({"num_workers": 100_000}, "num_workers is 100000: give 0 to 512"),
        ({"seed": 2**63}, "seed is 9223372036854775808: give 0 or more, less than"),
        ({"total_batch_size": 32, "drop_last": True}, "24 samples do not fill one batch of 32 and drop_last"),
    ],
)
def test_contradicting_options(options, match):
    with pytest.raises(ConfigError, match=match):
        loader(**options)


def test_training_needs_normalised_boxes():
    with pytest.raises(ConfigError, match=r"the transforms leave boxes in pixels: add {type: ConvertBoxes"):
        loader(pages([Resize((32, 32)), ConvertPILImage()]))


@pytest.mark.gpu
def test_batches_on_a_gpu_equal_those_on_the_cpu():
    reference = passes(loader())
    found = passes(loader(num_workers=2).to("cuda"))
    assert found[0][0].device.type == "cuda"
    assert found[0][1][0]["boxes"].device.type == "cuda"
    cpu = [(images.cpu(), [{k: v.cpu() for k, v in target.items()} for target in targets]) for images, targets in found]
    assert_equal_batches(cpu, reference)


def test_sizes_that_strides_do_not_divide():
    with pytest.raises(ConfigError, match=r"Resize to \[65, 96\]: both sides must be multiples of 32, .* \[64, 96\]"):
        loader(pages([Resize((64, 64)), Resize((65, 96)), ConvertPILImage(), ConvertBoxes()]))
    with pytest.raises(ConfigError, match=r"PadToSize to \[96, 97\]"):
        loader(pages([Resize((96, 96)), PadToSize((96, 97)), ConvertPILImage(), ConvertBoxes()]))
    for last in (PadToSize((96, 96)), RandomCrop((64, 64))):
        loader(pages([Resize((65, 96)), last, ConvertPILImage(), ConvertBoxes()]))


@pytest.mark.parametrize(("shuffle", "drop_last"), [(True, False), (False, True), (True, True), (False, False)])
def test_even_loaders_have_equally_many_batches_on_every_rank(shuffle, drop_last):
    ranks = [loader(total_batch_size=10, shuffle=shuffle, drop_last=drop_last, shard=(rank, 10)) for rank in range(10)]
    assert ranks[0].even == (shuffle or drop_last)
    assert (len({len(rank) for rank in ranks}) == 1) == ranks[0].even


def padded(ops=None, **options):
    ops = ops or [ResizeShortestEdge(96, 160), ConvertPILImage(), ConvertBoxes()]
    return loader(pages(ops), **{"collate_fn": PaddedBatchCollateFunction(), "bucket_by_aspect": True, **options})


def test_padded_batches_are_scaled_with_their_contents():
    plain = passes(padded())
    scaled = passes(padded(collate_fn=PaddedBatchCollateFunction(scales=[0.75, 1.0, 1.5])))
    assert len({images.shape[-2:] for images, _ in scaled}) > len({images.shape[-2:] for images, _ in plain})
    for (images, targets), (other, other_targets) in zip(plain, scaled, strict=True):
        assert all(side % 32 == 0 for side in (*images.shape[-2:], *other.shape[-2:]))
        growth = torch.tensor(other.shape[-2:]) / torch.tensor(images.shape[-2:])
        for target, grown in zip(targets, other_targets, strict=True):
            assert torch.equal(target["boxes"], grown["boxes"])
            torch.testing.assert_close(grown["image_size"], target["image_size"] * growth, check_dtype=False)


def test_padded_batches_do_not_depend_on_workers_and_ranks_and_restart():
    collate = PaddedBatchCollateFunction(scales=[0.75, 1.0])
    whole = passes(padded(collate_fn=collate))
    assert_equal_batches(passes(padded(collate_fn=collate, num_workers=1)), whole)
    later = padded(collate_fn=collate)
    later.start_at(2)
    assert_equal_batches(list(later), whole[2:5])
    ids = [
        [int(target["image_id"]) for target in targets] for _, targets in passes(padded(total_batch_size=8), epochs=[0])
    ]
    ranks = [passes(padded(total_batch_size=8, shard=(rank, 2)), epochs=[0]) for rank in range(2)]
    joined = [[int(target["image_id"]) for target in a[1] + b[1]] for a, b in zip(*ranks, strict=True)]
    assert joined == ids


def test_evaluation_in_order_of_shape_sees_every_image():
    one = padded(shuffle=False)
    found = [int(target["image_id"]) for _, targets in one for target in targets]
    assert sorted(found) == sorted(one.dataset.annotations.image_ids.tolist())


def share_of_padding(sizes, **options):
    """Padded share of one epoch of batches of 16 at a shorter side of 640."""
    buckets = aspect_buckets(sizes) if options.pop("buckets") else None
    sampler = BatchSampler(len(sizes), 16, (0, 1), shuffle=True, drop_last=True, seed=0, buckets=buckets)
    resize, shares = ResizeShortestEdge(640, 928), []
    for batch in sampler:
        resized = torch.tensor([resize.size_of(*sizes[key.sample].tolist()) for key in batch])
        canvas = (resized.amax(dim=0) + 31) // 32 * 32
        shares.append(padded_share(resized, tuple(canvas.tolist())))
    return sum(shares) / len(shares)


def test_buckets_keep_the_padding_of_mixed_shapes_below_15_percent():
    random = np.random.default_rng(0)
    octaves = random.choice([-0.5, 0, 0.415, 0.83], 1000) + random.normal(
        0, 0.15, 1000
    )  # portraits, squares, 4:3, 16:9
    width = random.integers(400, 1600, 1000)
    sizes = np.stack([np.round(width / 2**octaves).astype(np.int64), width], axis=1)
    without, with_buckets = (share_of_padding(sizes, buckets=buckets) for buckets in (False, True))
    assert without > 0.3
    assert with_buckets < 0.12


def test_the_padding_of_an_epoch_is_logged(caplog):
    caplog.set_level(logging.INFO)
    one = padded(bucket_by_aspect=False)
    shares = [
        padded_share(torch.stack([target["image_size"] for target in targets]), tuple(images.shape[-2:]))
        for images, targets in one
    ]
    assert f"epoch 0: {100 * sum(shares) / len(shares):.1f} % of the pixels were padding" in caplog.text
    caplog.clear()
    list(padded(shuffle=False))
    assert "padding" not in caplog.text


def test_much_padding_comes_with_advice(caplog, tmp_path):
    caplog.set_level(logging.INFO)
    data = coco_files.content()
    data["images"][0].update(height=40, width=160)
    data["images"][1].update(height=160, width=40)
    root, path = coco_files.write(tmp_path, data)
    dataset = CocoDetection(
        str(root), str(path), Compose([ResizeToFit((96, 96)), ConvertPILImage(), ConvertBoxes()]), invalid_boxes="drop"
    )
    one = loader(dataset, total_batch_size=2, collate_fn=PaddedBatchCollateFunction())
    list(one)
    assert "75.0 % of the pixels were padding: bucket_by_aspect: True in the data loader lowers it" in caplog.text


@pytest.mark.parametrize("resize", [ResizeShortestEdge(96, 160), ResizeToFit((96, 128))])
def test_keeping_the_aspect_needs_padding(resize):
    ops = [resize, ConvertPILImage(), ConvertBoxes()]
    with pytest.raises(
        ConfigError, match=r"keeps the aspect ratio, .* BatchImageCollateFunction .* PaddedBatchCollate"
    ):
        loader(pages(ops))
    loader(pages([resize, PadToSize((160, 160)), ConvertPILImage(), ConvertBoxes()]))
    padded([Resize((65, 97)), ConvertPILImage(), ConvertBoxes()])


def test_the_way_of_augmentation_is_logged(caplog):
    caplog.set_level(logging.INFO)
    loader(pages(policy={"name": "stop_epoch", "epoch": 1, "ops": ["RandomZoomOut"]}))
    assert "train.json: augmentation runs fused" in caplog.text
    loader(pages([Failing(), RandomHorizontalFlip(), ConvertBoxes()]), shuffle=False)
    assert "train.json: augmentation runs one by one (Failing must see the image)" in caplog.text
    caplog.clear()
    loader(pages([Resize((64, 96)), ConvertPILImage()]), shuffle=False)
    assert "augmentation" not in caplog.text


def test_evaluation_pixels_are_those_of_pillow():
    dataset = pages([Resize((64, 96)), ConvertPILImage()])
    for index in range(3):
        image, _ = dataset[index]
        expected = dataset.ground_truth(int(dataset.annotations.image_ids[index])).image().resize((96, 64), 2)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_workers_decode_what_the_main_process_allows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    for largest, workers in ((1000, 0), (1000, 1), (10**9, 1)):
        limit_pixels(largest)
        batches = loader(num_workers=workers, shuffle=False)
        if largest == 1000:
            with pytest.raises(DataError, match=r"exceeds limit of 1000 pixels.*raise --max-pixels, or max_pixels"):
                next(iter(batches))
        else:
            assert len(next(iter(batches))[0]) == 5
        batches.close()


def test_views_repeat_whole_epochs_in_each_stage():
    """Order, augmentation and sizes: what an image looks like is told by ``Shown``, and by nothing else."""
    policy = {"name": "stop_epoch", "epoch": 3, "ops": ["RandomPhotometricDistort", "RandomZoomOut"]}
    one = loader(pages(policy=policy), collate_fn=BatchImageCollateFunction(96, 1, stop_epoch=5))
    one.views = 2
    found = {}
    for epoch in range(9):
        one.set_epoch(epoch)
        one.collate_fn.multi_scale = epoch < 5
        found[epoch] = list(one)
    for stage in ([0, 2], [3], [5, 7], [6, 8]):
        for epoch in stage[1:]:
            assert_equal_batches(found[epoch], found[stage[0]])
    different = [0, 1, 3, 4, 5, 6]
    assert len({found[epoch][0][0].sum().item() for epoch in different}) == len(different)


@pytest.mark.parametrize("padded", [False, True])
def test_images_are_told_apart_by_their_pixels(padded):
    """With batches of other sizes, in other orders: equal values, equal pixels inside the image."""
    if padded:
        ops = [RandomHorizontalFlip(), ResizeToFit((96, 128)), *official_ops()[-2:]]
        collate = PaddedBatchCollateFunction(scales=[0.8, 1.0])
    else:
        ops, collate = None, BatchImageCollateFunction(96, 1)
    seen = {}
    for options in ({}, {"total_batch_size": 3}, {"total_batch_size": 4, "bucket_by_aspect": True}):
        one = loader(pages(ops), collate_fn=collate, **options)
        one.views = 2
        for epoch in range(3):
            one.set_epoch(epoch)
            for images, _ in one:
                shown = one.shown(images)
                assert len(set(shown)) == len(images)
                for key, image in zip(shown, images):
                    assert key.canvas == tuple(image.shape[-2:])
                    seen.setdefault(key, image.clone())
                    assert torch.equal(seen[key], image), key
                assert one.shown(images.clone()) is None
            assert one.shown(images) is None
        one.close()
    epochs = {key.epoch for key in seen}
    assert epochs == {0, 1}
    assert len(seen) > 2 * len(pages())
