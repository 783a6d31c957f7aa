# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""One interface, the same answers from every backend and every form of an image."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector_cases import LABELS, OPS, TellTale, micro_checkpoint, micro_config, micro_onnx, pictures
from isdfine import Detections, Detector
from isdfine.core.errors import CheckpointError, ConfigError, DataError
from isdfine.deploy.backends.base import Outputs
from isdfine.solver.solver import Evaluation


def same(one: Sequence[Detections], other: Sequence[Detections], box: float = 2e-3) -> None:
    """Equal detections, boxes within ``box`` pixels; those of nearly equal scores may change places."""
    assert len(one) == len(other)
    for first, second in zip(one, other):
        assert first.size == second.size
        assert len(first) == len(second) > 0
        np.testing.assert_allclose(first.scores, second.scores, atol=1e-5)
        far = np.abs(first.boxes[:, None] - second.boxes[None]).max(axis=-1)  # (M, M)
        far = (
            far
            + 1e6 * (first.labels[:, None] != second.labels)
            + 1e6 * (np.abs(first.scores[:, None] - second.scores) > 2e-5)
        )
        assert sorted(far.argmin(axis=1).tolist()) == list(range(len(first)))
        assert far.min(axis=1).max() <= box


@pytest.mark.parametrize("rule", OPS)
def test_answers_are_those_of_the_evaluation(tmp_path: Path, rule: str) -> None:
    path = micro_checkpoint(tmp_path, rule)
    run = Evaluation(micro_config(tmp_path, rule))
    run.load(path)
    files = [
        run.val_loader.dataset.img_folder / file_name for file_name in run.val_loader.dataset.annotations.file_names
    ]
    detector = Detector.load(path, device="cpu", batch_size=3)
    answers = detector.detect(files, threshold=0.0)
    for (_, expected), got in zip(run.sample_detections(len(files)), answers):
        labels, boxes, scores = (column.numpy() for column in expected)
        same([got], [replace(got, boxes=boxes, scores=scores, labels=labels)])
        assert got.boxes.dtype == got.scores.dtype == np.float32
    assert len(answers) == len(files) == 8


@pytest.mark.parametrize("rule", ["squash", "fit"])
def test_one_list_array_and_batches(tmp_path: Path, rule: str) -> None:
    detector = Detector.load(micro_checkpoint(tmp_path, rule), device="cpu", batch_size=3)
    paths = pictures(tmp_path)
    together = detector.detect(paths, threshold=0.0)
    assert [detections.size for detections in together] == [(64, 96), (100, 70), (40, 90), (64, 96)]
    images = [Image.open(path).convert("RGB") for path in paths]
    arrays = [np.array(image) for image in images]
    same(together, [detector.detect(str(path), threshold=0.0) for path in paths])
    same(together, detector(images, 0.0))
    same(together, detector.detect(arrays, threshold=0.0))
    same(together, detector.detect([array[:, :, ::-1] for array in arrays], 0.0, channels="bgr"))
    same(together, detector.detect(tuple(torch.from_numpy(array).permute(2, 0, 1) for array in arrays), 0.0))
    same(together[::3], detector.detect(np.stack(arrays[::3]), 0.0))
    same(together[::3], list(detector.stream(iter(arrays[::3]), 0.0)))
    assert detector.detect([]) == []
    assert isinstance(detector.detect(arrays[0]), Detections)
    assert together[1].draw().size == (70, 100)


def test_a_file_given_to_the_constructor_is_told_how_to_load_it() -> None:
    with pytest.raises(ConfigError, match=r"a backend, not a file: write Detector.load\('model.onnx'\)"):
        Detector("model.onnx")  # type: ignore[arg-type]


def test_names_and_a_short_text() -> None:
    detector = Detector(TellTale(lambda _: []))
    assert detector.names == ("dark", "light")
    assert repr(detector) == "Detector(tests, 2 classes)"


def test_threshold_and_batches() -> None:
    rows = [[0, 0.1, 0.1, 0.5, 0.5, 0.9], [1, 0.2, 0.2, 0.4, 0.4, 0.5], [0, 0, 0, 1, 1, 0.3]]
    backend = TellTale(lambda _: rows)
    detector = Detector(backend, batch_size=4)
    image = np.zeros((40, 60, 3), np.uint8)
    assert len(detector.detect(image)) == 2
    assert len(detector.detect(image, threshold=0.95)) == 0
    found = detector.detect(image, threshold=0.3)
    np.testing.assert_allclose(found.boxes[1], [12, 8, 24, 16], atol=1e-5)
    assert found.names == ["dark", "light", "dark"]
    backend.batches.clear()
    detector.detect([image] * 10)
    assert backend.batches == [4, 4, 2]
    backend.info = replace(backend.info, max_batch=3)
    assert Detector(backend).batch_size == 3
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=f"threshold is {wrong}: give a score from 0 to 1"):
            detector.detect(image, wrong)
    with pytest.raises(ConfigError, match="batch_size is 0: give 1 or more"):
        Detector(backend, batch_size=0)


def test_a_stream_holds_one_batch() -> None:
    taken = []

    def images():
        for number in range(6):
            taken.append(number)
            yield np.zeros((8, 8, 3), np.uint8)

    answers = Detector(TellTale(lambda _: []), batch_size=2).stream(images())
    next(answers)
    assert taken == [0, 1]


def test_odd_sizes(tmp_path: Path) -> None:
    for rule in OPS:
        detector = Detector.load(micro_checkpoint(tmp_path, rule), device="cpu")
        for size in ((1, 1), (100, 20000), (20000, 100)):
            found = detector.detect(np.zeros((*size, 3), np.uint8), 0.0)
            assert found.size == size
            assert np.isfinite(found.boxes).all()


def test_exif_rotation_gives_boxes_of_the_displayed_image(tmp_path: Path) -> None:
    detector = Detector.load(micro_checkpoint(tmp_path), device="cpu")
    upright = Image.open(pictures(tmp_path)[2]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 8
    upright.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png", exif=exif)
    same([detector.detect(upright, 0.0)], [detector.detect(tmp_path / "turned.png", 0.0)], box=0)


def same_in_threads(detector: Detector, images: Sequence[Path]) -> None:
    expected = [detector.detect(image, 0.0) for image in images]
    with ThreadPoolExecutor(8) as pool:
        same(list(pool.map(lambda one: detector.detect(one, 0.0), images)), expected)


def test_threads_get_their_own_answers(tmp_path: Path) -> None:
    same_in_threads(Detector.load(micro_checkpoint(tmp_path, "fit"), device="cpu"), pictures(tmp_path) * 6)


@pytest.mark.slow
def test_threads_get_their_own_answers_of_onnx_runtime(tmp_path: Path) -> None:
    same_in_threads(Detector.load(micro_onnx(micro_checkpoint(tmp_path)), device="cpu"), pictures(tmp_path) * 6)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["squash", "padded"])
def test_onnx_runtime_agrees(tmp_path: Path, rule: str) -> None:
    path = micro_checkpoint(tmp_path, rule)
    ours, theirs = (Detector.load(model, device="cpu", threads=1) for model in (path, micro_onnx(path)))
    assert theirs.label_space == ours.label_space == LABELS
    assert theirs.info.backend.startswith("onnxruntime")
    assert ours.info.size == theirs.info.size == (64, 96)
    assert (ours.info.names, ours.info.ids) == (("dark", "light"), (3, 7))
    images = pictures(tmp_path)
    same(ours.detect(images, 0.0), theirs.detect(images, 0.0), box=0.05)


def test_boxes_stay_in_place_where_a_network_does_not_know_of_padding(tmp_path: Path) -> None:
    """A box over the left half of a 40 x 90 image, which is 36 x 80 on a canvas of 64 x 96."""
    backend = TellTale(lambda _: [[0, 0, 0, 40 / 96, 36 / 64, 0.9]])
    backend.info = replace(backend.info, recipe=Detector.load(micro_checkpoint(tmp_path, "fit")).info.recipe)
    found = Detector(backend).detect([np.zeros((40, 90, 3), np.uint8), np.zeros((100, 70, 3), np.uint8)])
    np.testing.assert_allclose(found[0].boxes, [[0, 0, 45, 40]], atol=1e-4)
    assert backend.info.dynamic_size


def test_broken_networks_are_named(tmp_path: Path) -> None:
    def numbers(value: float, label: int) -> Outputs:
        return Outputs(np.array([[label]]), np.full((1, 1, 4), value, np.float32), np.full((1, 1), value, np.float32))

    backend = TellTale(lambda _: [])
    image = np.zeros((8, 8, 3), np.uint8)
    backend.run = lambda *_: numbers(np.nan, 0)  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match="not finite: its weights have diverged, or it overflows in half"):
        Detector(backend).detect(image)
    backend.run = lambda *_: numbers(0.5, 2)  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match="answers with label 2, but there are 2 class names"):
        Detector(backend).detect(image)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    path = micro_checkpoint(tmp_path)
    for options, reason in (
        ({"threads": 0}, "threads is 0: give 1 or more"),
        ({"device": "gpu"}, "device is 'gpu': give cpu, cuda or cuda:0"),
        ({"device": "cuda:99"}, "device is cuda:99, but this torch .* sees .* CUDA devices: give cpu"),
        ({"names": ["a"]}, "names are for ONNX files and engines"),
    ):
        with pytest.raises(ConfigError, match=reason):
            Detector.load(path, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="says all by itself: leave config out"):
        Detector.load(tmp_path / "m.onnx", config=tmp_path / "micro.yml")
    with pytest.raises(ConfigError, match="threads are for the CPU: leave them out for a TensorRT engine"):
        Detector.load(tmp_path / "m.engine", threads=2)
    for name in ("absent.pth", "absent.onnx", "absent.engine"):
        with pytest.raises(CheckpointError, match=f"{name}: no such file"):
            Detector.load(tmp_path / name)
    with pytest.raises(DataError, match="image 1 is an array of 3 x 8 x 8"):
        Detector(TellTale(lambda _: [])).detect([np.zeros((8, 8, 3), np.uint8), np.zeros((3, 8, 8), np.uint8)])
