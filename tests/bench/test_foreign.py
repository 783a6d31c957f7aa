# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from isdfine.bench.foreign import TOP, finish_for
from isdfine.core.errors import ConfigError
from isdfine.nn.types import Predictions
from isdfine.zoo.dfine.postprocess import DFINEPostProcessor

SIZES = np.array([[200, 100], [64, 640]], dtype=np.int64)


def test_outputs_of_transformers_become_what_our_own_post_processor_makes() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, boxes = torch.randn(2, 300, 7, generator=draw), torch.rand(2, 300, 4, generator=draw)
    finish, words = finish_for(dict.fromkeys(("logits", "pred_boxes", "last_hidden_state"), ()), "x.onnx")
    outputs = finish({"logits": logits.numpy(), "pred_boxes": boxes.numpy()}, SIZES, (640, 640))
    want = DFINEPostProcessor(num_classes=7, num_top_queries=TOP)(
        Predictions(logits=logits, boxes=boxes), torch.from_numpy(SIZES)
    )
    assert "after the graph" in words
    np.testing.assert_array_equal(outputs.labels, want.labels.numpy())
    np.testing.assert_allclose(outputs.boxes, want.boxes.numpy(), atol=1e-3)
    np.testing.assert_allclose(outputs.scores, want.scores.numpy(), atol=1e-6)


def test_yolo_boxes_are_suppressed_per_class_and_scaled() -> None:
    answer = np.zeros((2, 6, 5), dtype=np.float32)  # cx, cy, w, h, two classes; five candidates
    answer[0, :, 0] = [50, 50, 20, 20, 0.9, 0.1]
    answer[0, :, 1] = [51, 50, 20, 20, 0.8, 0.1]  # the same object once more
    answer[0, :, 2] = [50, 50, 20, 20, 0.1, 0.7]  # another class in the same place
    answer[0, :, 3] = [90, 90, 10, 10, 0.2, 0.1]  # below the threshold
    finish, _ = finish_for({"output0": (2, 6, 5)}, "x.onnx")
    outputs = finish({"output0": answer}, SIZES, (100, 100))
    np.testing.assert_allclose(outputs.scores[0, :3], [0.9, 0.7, 0])
    assert outputs.labels[0, :2].tolist() == [0, 1]
    np.testing.assert_allclose(outputs.boxes[0, 0], [80, 40, 120, 60])
    assert not outputs.scores[1].any()


def test_other_outputs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"x\.onnx: has the outputs heatmap; known are labels"):
        finish_for({"heatmap": (1, 2, 8, 8)}, "x.onnx")


def test_finished_detections_are_not_read_as_candidates() -> None:
    """A file with NMS inside has the same name of its output: its 300 rows are no 300 scores."""
    with pytest.raises(ConfigError, match=r"output0 \[1, 300, 6\] holds finished detections .*: export it without nms"):
        finish_for({"output0": (1, 300, 6)}, "x.onnx")
