# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from golden_cases import load_golden
from isdfine.core.errors import ConfigError
from isdfine.nn.types import Predictions
from isdfine.zoo.dfine.postprocess import DFINEPostProcessor


@pytest.mark.parametrize("prefix", ["", "ns_"])
def test_golden(prefix: str) -> None:
    arrays, _ = load_golden("dfine_n_eval.npz")
    got = {
        name: torch.from_numpy(arrays[prefix + name]) for name in ("pred_logits", "pred_boxes", "orig_target_sizes_wh")
    }
    predictions = Predictions(got["pred_logits"], got["pred_boxes"])
    labels, boxes, scores = DFINEPostProcessor(80)(predictions, got["orig_target_sizes_wh"])
    assert torch.equal(labels, torch.from_numpy(arrays[prefix + "post_labels"]).long())
    torch.testing.assert_close(boxes, torch.from_numpy(arrays[prefix + "post_boxes"]), atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(scores, torch.from_numpy(arrays[prefix + "post_scores"]), atol=1e-6, rtol=0)


def small() -> Predictions:
    logits = torch.tensor([[[2.0, 1.0], [-1.0, 3.0]]])
    return Predictions(logits, torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0]]]))


def test_pairs_by_hand() -> None:
    """Sizes are (width, height); fewer pairs than num_top_queries are all returned."""
    labels, boxes, scores = DFINEPostProcessor(2)(small(), torch.tensor([[100, 10]]))
    assert labels.tolist() == [[1, 0, 1, 0]]
    torch.testing.assert_close(scores, torch.tensor([[3.0, 2.0, 1.0, -1.0]]).sigmoid())
    torch.testing.assert_close(boxes[0, :2], torch.tensor([[0.0, 0, 50, 10], [40, 3, 60, 7]]))
    assert torch.equal(boxes[0, 2], boxes[0, 1])


def test_softmax_scores_leave_the_last_column_out() -> None:
    logits = torch.tensor([[[1.0, 2.0, 0.0], [3.0, 0.0, 5.0]]])
    predictions = Predictions(logits, small().boxes)
    labels, boxes, scores = DFINEPostProcessor(2, use_focal_loss=False, num_top_queries=5)(
        predictions, torch.tensor([[100, 10]])
    )
    assert labels.tolist() == [[1, 0]]
    torch.testing.assert_close(scores, torch.stack((logits[0, 0].softmax(-1)[1], logits[0, 1].softmax(-1)[0]))[None])
    torch.testing.assert_close(boxes[0, 0], torch.tensor([40.0, 3, 60, 7]))


def test_softmax_scores_need_a_column_for_nothing() -> None:
    with pytest.raises(ConfigError, match=r"needs 3 score columns but the predictions have 2.*use_focal_loss: True"):
        DFINEPostProcessor(2, use_focal_loss=False)(small(), torch.tensor([[100, 10]]))


def test_one_size_serves_the_batch() -> None:
    predictions = Predictions(torch.randn(3, 4, 2), torch.rand(3, 4, 4))
    post = DFINEPostProcessor(2, num_top_queries=3)
    one, each = (post(predictions, torch.tensor([[64, 32]]).repeat(n, 1)) for n in (1, 3))
    assert one.boxes.shape == (3, 3, 4)
    assert torch.equal(one.boxes, each.boxes)


def test_half_precision_is_scored_in_float32() -> None:
    predictions = Predictions(torch.randn(1, 4, 2).half(), torch.rand(1, 4, 4))
    assert DFINEPostProcessor(2)(predictions, torch.tensor([[8, 8]])).scores.dtype == torch.float32


def test_messages() -> None:
    with pytest.raises(
        ConfigError, match=r"num_classes 3 .* needs 3 score columns but the predictions have 2: give the model"
    ):
        DFINEPostProcessor(3)(small(), torch.tensor([[8, 8]]))
    with pytest.raises(ValueError, match=r"orig_target_sizes must be \(B, 2\), width and height in pixels, got \(2,\)"):
        DFINEPostProcessor(2)(small(), torch.tensor([8, 8]))
    with pytest.raises(ValueError, match="num_top_queries must be at least 1, got 0"):
        DFINEPostProcessor(2, num_top_queries=0)
