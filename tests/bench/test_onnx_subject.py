# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from isdfine.bench.onnx_subject import OnnxSubject
from isdfine.bench.subject import RunWith, from_memory, prepared
from isdfine.core.errors import CheckpointError, ConfigError
from latency_cases import ours, write_graph

CPU = RunWith(torch.device("cpu"), threads=1)
SIZES = np.array([[200, 100]], dtype=np.int64)


def test_our_own_file_says_what_it_is(tmp_path: Path) -> None:
    subject = OnnxSubject(ours(tmp_path / "m.onnx"), CPU)
    facts = subject.facts
    assert (facts.size, facts.precision, facts.post_processing) == ((32, 64), "fp16", "part of the model")
    assert facts.labels is not None
    assert facts.labels.names == ("dark", "light")
    images = np.full((1, 3, 32, 64), 0.25, dtype=np.float32)
    outputs = subject.call(subject.place(images, SIZES))
    assert outputs.scores.tolist() == [0.25]
    assert outputs.boxes.tolist() == [[200, 100]]
    assert 0.4 < float(from_memory(subject, 1)().scores[0]) < 0.6, "noise"


def test_uint8_files_get_pixels(tmp_path: Path) -> None:
    subject = OnnxSubject(ours(tmp_path / "m.onnx", kind="UINT8"), CPU)
    images = [Image.new("RGB", (50, 20), (100, 100, 100))]
    pixels, sizes = prepared(subject.facts, images)
    assert (pixels.dtype, sizes.tolist()) == (np.uint8, [[50, 20]])
    assert subject.call(subject.place(pixels, sizes)).scores.tolist() == [100]
    assert 120 < float(from_memory(subject, 1)().scores[0]) < 135, "noise"


def test_a_mask_of_transformers_is_all_ones(tmp_path: Path) -> None:
    inputs = {"pixel_values": ("FLOAT", [1, 3, 32, 32]), "pixel_mask": ("INT64", [1, 32, 32])}
    subject = OnnxSubject(write_graph(tmp_path / "m.onnx", inputs, ("logits", "pred_boxes")), CPU)
    feed, _ = subject.place(np.zeros((1, 3, 32, 32), dtype=np.float32), SIZES)
    assert feed["pixel_mask"].numpy().shape == (1, 32, 32)
    assert (feed["pixel_mask"].numpy() == 1).all()
    assert subject.facts.labels is None
    assert "after the graph" in subject.facts.post_processing


def test_a_free_size_has_to_be_given(tmp_path: Path) -> None:
    path = ours(tmp_path / "m.onnx", size=("H", "W"))
    with pytest.raises(ConfigError, match="takes images of any size: give one with --size"):
        OnnxSubject(path, CPU)
    wanted = RunWith(torch.device("cpu"), size=(64, 32))
    subject = OnnxSubject(path, wanted)
    assert subject.facts.size == subject.facts.recipe.size == (64, 32)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (RunWith(torch.device("cpu"), batch=2), "takes batches of 1, not 2: give --batch 1"),
        (RunWith(torch.device("cpu"), size=(64, 64)), "takes images of 32 x 64 .* not 64 x 64: leave --size out"),
    ],
)
def test_other_batches_and_sizes_are_refused(wanted: RunWith, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        OnnxSubject(ours(tmp_path / "m.onnx", batch=1), wanted)


@pytest.mark.parametrize(
    ("known", "message"),
    [([], "onnxruntime-gpu in place of onnxruntime"), (["CUDAExecutionProvider"], "cannot start CUDA here")],
)
def test_a_gpu_is_used_or_refused(
    known: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime falls back to the CPU without a word: its time would stand in the table as the GPU's."""

    class Session:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    options = SimpleNamespace(add_session_config_entry=lambda *_: None)
    fake = SimpleNamespace(
        __version__="1", SessionOptions=lambda: options, InferenceSession=Session, get_available_providers=lambda: known
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(ConfigError, match=message):
        OnnxSubject(ours(tmp_path / "m.onnx"), RunWith(torch.device("cuda")))


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", {"audio": ("FLOAT", [1, 3, 8, 8])}, ("scores",))
    with pytest.raises(ConfigError, match=r"has the inputs audio tensor\(float\) \[1, 3, 8, 8\]; known are images"):
        OnnxSubject(path, CPU)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"m\.onnx .*: ONNX Runtime cannot load it"):
        OnnxSubject(tmp_path / "m.onnx", CPU)
