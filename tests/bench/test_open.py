# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import isdfine
from detector_cases import micro_checkpoint
from isdfine.bench.open import open_subject, parse
from isdfine.bench.subject import Precision, RunWith, prepared
from isdfine.bench.torch_subject import TorchSubject
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.deploy.backends.torch import TorchBackend

CPU = RunWith(torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.pth and micro.yml."""
    return micro_checkpoint(tmp_path_factory.mktemp("micro")).parent


def test_words_of_the_command_line(folder: Path) -> None:
    (folder / "m.onnx").touch()
    config, checkpoint = folder / "micro.yml", folder / "best.pth"
    assert parse(str(config)).backend == "eager"
    assert parse(str(config), "compile").backend == "compile"
    assert parse(f"onnx:{config}", "compile").backend == "onnx"
    assert parse(str(folder / "m.onnx"), "compile").backend == "onnx"
    both = parse(f"graph:{config}+{checkpoint}")
    assert (both.backend, both.path, both.checkpoint) == ("graph", config, checkpoint)
    (folder / "c++").mkdir(exist_ok=True)
    (folder / "c++" / "m.onnx").touch()
    assert parse(f"onnx:{folder}/c++/m.onnx").path == folder / "c++" / "m.onnx"


def test_words_that_do_not_fit(folder: Path) -> None:
    (folder / "m.onnx").touch()
    with pytest.raises(ConfigError, match="files are run by onnx: leave compile out"):
        parse(f"compile:{folder / 'm.onnx'}")
    with pytest.raises(ConfigError, match=r"TensorRT runs engines: make one with isdfine trt"):
        parse(f"tensorrt:{folder / 'best.pth'}")
    with pytest.raises(ConfigError, match=r"a checkpoint after \+ belongs to a config"):
        parse(f"{folder / 'm.onnx'}+{folder / 'best.pth'}")
    with pytest.raises(CheckpointError, match=r"absent\.yml: no such file"):
        parse(str(folder / "absent.yml"))


def test_a_checkpoint_answers_as_the_detector_does(folder: Path) -> None:
    subject = open_subject(parse(str(folder / "best.pth")), CPU, isdfine.load_config)
    assert subject.facts.labels is not None
    assert subject.facts.labels.names == ("dark", "light")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8))
    pixels, sizes = prepared(subject.facts, [image])
    want = TorchBackend.load(folder / "best.pth", device="cpu").run(pixels, sizes)
    got = subject.call(subject.place(pixels, sizes))
    assert sizes.tolist() == [[80, 50]]
    np.testing.assert_array_equal(got.labels, want.labels)
    np.testing.assert_allclose(got.boxes, want.boxes, atol=1e-4)


def test_random_weights_and_another_size(folder: Path) -> None:
    wanted = RunWith(torch.device("cpu"), size=(32, 64), batch=2)
    subject = open_subject(parse(str(folder / "micro.yml")), wanted, isdfine.load_config)
    assert (subject.facts.weights, subject.facts.size, subject.facts.labels) == ("random", (32, 64), None)
    pixels = np.zeros((2, 3, 32, 64), dtype=np.float32)
    assert subject.call(subject.place(pixels, np.array([[64, 32]] * 2))).boxes.shape[0] == 2


def test_bf16_is_stored_and_near_fp32(folder: Path) -> None:
    named = parse(str(folder / "best.pth"))
    half = open_subject(named, RunWith(torch.device("cpu"), precision="bf16"), isdfine.load_config)
    full = open_subject(named, CPU, isdfine.load_config)
    assert isinstance(half, TorchSubject)
    types = {parameter.dtype for parameter in half._module.parameters()}
    assert torch.bfloat16 in types, "weights are halved once, not in every call"
    pixels, sizes = np.full((1, 3, *half.facts.size), 0.5, dtype=np.float32), np.array([[96, 64]])
    near, exact = (subject.call(subject.place(pixels, sizes)).scores for subject in (half, full))
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).max() < 0.1


def test_cuda_graphs_need_a_gpu(folder: Path) -> None:
    with pytest.raises(ConfigError, match="graph: CUDA graphs need a GPU, the device is cpu: use eager or compile"):
        open_subject(parse(f"graph:{folder / 'micro.yml'}"), CPU, isdfine.load_config)


def test_bf16_onnx_is_refused(folder: Path) -> None:
    wanted = RunWith(torch.device("cpu"), precision="bf16")
    with pytest.raises(ConfigError, match="ONNX files are written in fp32 or fp16"):
        open_subject(parse(f"onnx:{folder / 'micro.yml'}"), wanted, isdfine.load_config)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # torch.compile took 270 s on one busy core
@pytest.mark.parametrize("backend", ["compile", "onnx"])
def test_other_backends_answer_as_eager_does(backend: str, folder: Path) -> None:
    eager, other = (
        open_subject(parse(f"{name}:{folder / 'best.pth'}"), CPU, isdfine.load_config) for name in ("eager", backend)
    )
    pixels = np.random.default_rng(0).random((1, 3, *eager.facts.size), dtype=np.float32)
    want, got = (subject.call(subject.place(pixels, np.array([[96, 64]]))) for subject in (eager, other))
    np.testing.assert_allclose(got.scores, want.scores, atol=1e-4)
    np.testing.assert_allclose(got.boxes, want.boxes, atol=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_cuda_graph_answers_as_eager_does(precision: Precision, folder: Path) -> None:
    """Twice, with other images: a graph that replays what it was captured with would say the same."""
    wanted = RunWith(torch.device("cuda"), precision=precision)
    eager, graph = (
        open_subject(parse(f"{name}:{folder / 'best.pth'}"), wanted, isdfine.load_config) for name in ("eager", "graph")
    )
    for seed in (0, 1):
        pixels = np.random.default_rng(seed).random((1, 3, *eager.facts.size), dtype=np.float32)
        want, got = (subject.call(subject.place(pixels, np.array([[96, 64]]))) for subject in (eager, graph))
        np.testing.assert_allclose(got.scores, want.scores, atol=1e-5 if precision == "fp32" else 1e-3)
