# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Learned query initialisers, and what a decoder of parts refuses when it is built."""

import pytest
import torch
from torch import nn

from isdfine.deploy.onnx.graph import Deployed, GraphForm, to_onnx
from isdfine.deploy.preprocess import Recipe
from isdfine.nn.types import TRAINING, Predictions
from isdfine.zoo.decoder import Decoder
from isdfine.zoo.decoder_layer import DecoderLayer
from isdfine.zoo.deformable_detr.queries import LearnedSplitQueries
from isdfine.zoo.denoising import Denoising, DenoisingSetting
from isdfine.zoo.detr import DETR
from isdfine.zoo.dfine.postprocess import DFINEPostProcessor
from isdfine.zoo.heads import Bins, BoxHead, DirectBoxHead, FDRBoxHead, ScoreHead
from isdfine.zoo.projection import InputProjection
from isdfine.zoo.queries import BoxEmbedding, LearnedAnchorQueries, Memory

DIM, CLASSES, WIDTHS = 16, 3, [16, 16]
INITIALISERS = {
    "split": lambda: LearnedSplitQueries(6, DIM),
    "anchors": lambda: LearnedAnchorQueries(6, DIM),
    "empty anchors": lambda: LearnedAnchorQueries(6, DIM, content="zeros"),
    "patterns": lambda: LearnedAnchorQueries(2, DIM, content="zeros", num_patterns=3),
    "fixed centres": lambda: LearnedAnchorQueries(6, DIM, fixed_centres=True),
}
HEADS = {"direct": lambda: DirectBoxHead(WIDTHS), "fdr": lambda: FDRBoxHead(WIDTHS, Bins(0.5, 4, 8))}


def decoder(queries: nn.Module, head: BoxHead, *sources: nn.Module) -> Decoder:
    layer = {"num_levels": 2, "num_points": 2, "projections": True, "merge": "residual"}
    layers = [DecoderLayer(DIM, 4, 24, **layer) for _ in WIDTHS]
    parts = (BoxEmbedding(DIM), head, ScoreHead(WIDTHS, CLASSES))
    return Decoder(InputProjection([DIM, DIM], DIM, 2), queries, layers, *parts, sources)


def features(batch: int = 2) -> list[torch.Tensor]:
    return [torch.rand(batch, DIM, 4, 8), torch.rand(batch, DIM, 2, 4)]


def start(queries: nn.Module) -> tuple:
    group, proposals = queries(Memory.of(features(), None))
    assert proposals is None
    return group.content, group.reference_logits, group.position


def test_split_queries_start_at_points() -> None:
    torch.manual_seed(0)
    queries = LearnedSplitQueries(300, DIM)
    content, references, position = start(queries)
    assert (content.shape, references.shape, position.shape) == ((2, 300, DIM), (2, 300, 2), (2, 300, DIM))
    rows = queries.embedding.weight
    assert torch.equal(position[1], rows[:, :DIM])
    assert torch.equal(content[1], rows[:, DIM:])
    torch.testing.assert_close(references[0], rows[:, :DIM] @ queries.reference.weight.T)  # no bias at the start
    assert queries.reference.weight.abs().max() <= (6 / (DIM + 2)) ** 0.5
    assert rows.std().item() == pytest.approx(1, abs=0.03)
    assert {name: value.shape for name, value in queries.state_dict().items()} == {
        "embedding.weight": (300, 2 * DIM), "reference.weight": (2, DIM), "reference.bias": (2,),
    }  # fmt: skip


def test_anchor_queries_start_at_boxes() -> None:
    torch.manual_seed(0)
    queries = LearnedAnchorQueries(300, DIM)
    content, references, position = start(queries)
    assert position is None
    assert torch.equal(references, queries.anchors.weight.expand(2, -1, -1))
    assert torch.equal(content, queries.content.weight.expand(2, -1, -1))
    assert queries.anchors.weight.std().item() == pytest.approx(1, abs=0.05)
    assert queries.content.weight.std().item() == pytest.approx(1, abs=0.05)
    assert not start(LearnedAnchorQueries(6, DIM, content="zeros"))[0].any()
    with pytest.raises(ValueError, match="content 'noise' of anchor queries is unknown: choose one of learned, zeros"):
        LearnedAnchorQueries(6, DIM, content="noise")


def test_every_anchor_is_combined_with_every_pattern() -> None:
    for kind in ("zeros", "learned"):
        queries = LearnedAnchorQueries(2, DIM, content=kind, num_patterns=3)
        content, references, _ = start(queries)
        anchors, patterns = queries.anchors.weight, queries.patterns.weight
        assert (anchors.shape, patterns.shape) == ((2, 4), (3, DIM))
        known = 0 if queries.content is None else queries.content.weight[[0, 1] * 3]
        assert torch.equal(content[0], patterns[[0, 0, 1, 1, 2, 2]] + known)
        assert torch.equal(references[0], anchors[[0, 1] * 3])
    with pytest.raises(ValueError, match=r"num_patterns must be 0 \(none\) or more, got -1"):
        LearnedAnchorQueries(2, DIM, num_patterns=-1)


def test_fixed_centres_are_spread_evenly_and_stay() -> None:
    torch.manual_seed(0)
    queries = LearnedAnchorQueries(1000, DIM, content="zeros", fixed_centres=True)
    _, references, _ = start(queries)
    centres = references[0, :, :2].sigmoid()
    assert [(centres < share).float().mean().item() for share in (0.25, 0.5, 0.75)] == pytest.approx(
        [0.25, 0.5, 0.75], abs=0.03
    )
    references.sum().backward()
    assert not queries.anchors.weight.grad[:, :2].any()
    assert queries.anchors.weight.grad[:, 2:].all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", INITIALISERS)
def test_a_decoder_trains_them(name: str, head: str) -> None:
    torch.manual_seed(0)
    model = decoder(INITIALISERS[name](), HEADS[head]())
    for mlp in model.box_head.layers:
        nn.init.normal_(mlp.layers[-1].weight)
    output = model(features())
    assert [layer.boxes.shape for layer in output.layers] == [(2, 6, 4)] * 2
    assert output.proposals is output.memory_index is None
    sum(layer.boxes.square().sum() + layer.logits.sum() for layer in output.layers).backward()
    for key, parameter in model.queries.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key
    with torch.no_grad():
        maps = features()
        model.eval()
        assert torch.equal(model(maps, want=TRAINING).layers[-1].boxes, model(maps).boxes)


class Pyramid(nn.Module):
    """Two maps at strides 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, DIM, 8, 8), nn.Conv2d(DIM, DIM, 2, 2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        fine = self.stem(images)
        return [fine, self.down(fine)]


@pytest.mark.parametrize(("name", "head"), [("split", "direct"), ("patterns", "fdr")])
def test_they_export(name: str, head: str) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    pytest.importorskip("onnxscript", reason="pip install onnxscript")
    torch.manual_seed(0)
    model = DETR(Pyramid(), nn.Identity(), decoder(INITIALISERS[name](), HEADS[head]())).eval()
    proto = to_onnx(Deployed(model, DFINEPostProcessor(CLASSES), Recipe.squash((64, 64))), GraphForm((64, 64)))
    session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images, sizes = torch.rand(batch, 3, 64, 64), torch.tensor([[64, 64]] * batch)
        with torch.no_grad():
            predictions = model(images)
        assert isinstance(predictions, Predictions)
        want = DFINEPostProcessor(CLASSES)(predictions, sizes)
        _, boxes, scores = session.run(None, {"images": images.numpy(), "orig_target_sizes": sizes.numpy()})
        torch.testing.assert_close(torch.from_numpy(scores), want.scores, rtol=1e-4, atol=1e-5)
        assert boxes.shape == want.boxes.shape


class Corners(DirectBoxHead):
    """A head that needs a box to start from."""

    kind = "corners"
    reference_dims = (4,)


def test_a_head_that_the_initialiser_cannot_serve() -> None:
    message = r"box_head corners starts from references of 4 numbers, LearnedSplitQueries gives 2: choose another of th"
    with pytest.raises(ValueError, match=message):
        decoder(LearnedSplitQueries(6, DIM), Corners(WIDTHS))
    decoder(LearnedAnchorQueries(6, DIM), Corners(WIDTHS))


def test_denoising_boxes_do_not_stand_beside_points() -> None:
    denoising = Denoising(CLASSES, DIM, DenoisingSetting(4, 0.5, 1.0))
    message = "Denoising gives references of 4 numbers, LearnedSplitQueries 2: leave the source out"
    with pytest.raises(ValueError, match=message):
        decoder(LearnedSplitQueries(6, DIM), HEADS["direct"](), denoising)
