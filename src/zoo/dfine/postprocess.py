# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From predictions to detections in pixels (docs/method.md 9.1). No NMS, no threshold, no clipping."""

from __future__ import annotations

from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.registry import register
from ...nn.boxes import cxcywh_to_xyxy
from ...nn.types import BatchDetections, Predictions


@register
class DFINEPostProcessor(nn.Module):
    """Keep the highest class scores of an image and scale their boxes to its original size.

    Args:
        num_classes: C, score columns of the detector.
        use_focal_loss: True for sigmoid scores, where the best (query, class) pairs are kept and a query may come
            several times; False for softmax scores over C + 1 columns whose last means "nothing", where each query
            gives its best class.
        num_top_queries: detections per image, at most; fewer if there are not as many pairs or queries.
    """

    def __init__(self, num_classes: int, use_focal_loss: bool = True, num_top_queries: int = 300) -> None:
        super().__init__()
        if num_top_queries < 1:
            raise ValueError(f"num_top_queries must be at least 1, got {num_top_queries}")
        self.num_classes = num_classes
        self.use_focal_loss = use_focal_loss
        self.num_top_queries = num_top_queries

    def forward(self, predictions: Predictions, orig_target_sizes: Tensor) -> BatchDetections:
        """Select and scale.

        Args:
            predictions: logits (B, Q, C) and boxes (B, Q, 4) cxcywh fractions.
            orig_target_sizes: (B, 2) or (1, 2) original image sizes as **(width, height)** in pixels. This is the
                order of the official interface and of exported graphs; everywhere else sizes are (height, width).

        Returns: labels (B, K) contiguous class indices, boxes (B, K, 4) xyxy pixels, scores (B, K), best first.
        """
        logits = predictions.logits
        expected = self.num_classes + (0 if self.use_focal_loss else 1)
        if logits.shape[-1] != expected:
            raise ConfigError(
                f"DFINEPostProcessor with num_classes {self.num_classes} and use_focal_loss {self.use_focal_loss} "
                f"needs {expected} score columns but the predictions have {logits.shape[-1]}: give the model and the "
                "post-processor the same num_classes; heads without a column for nothing, as D-FINE's, need "
                "use_focal_loss: True"
            )
        if orig_target_sizes.ndim != 2 or orig_target_sizes.shape[1] != 2:
            raise ValueError(
                f"orig_target_sizes must be (B, 2), width and height in pixels, got {tuple(orig_target_sizes.shape)}"
            )
        best = self._best_pairs if self.use_focal_loss else self._best_classes
        scores, labels, query = best(logits.float())
        boxes = predictions.boxes.float().gather(1, query[..., None].expand(-1, -1, 4))
        return BatchDetections(labels, cxcywh_to_xyxy(boxes) * orig_target_sizes.repeat(1, 2)[:, None], scores)

    def _best_pairs(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels and query numbers (B, K) of the best (query, class) pairs."""
        flat = logits.sigmoid().flatten(1)  # (B, Q*C)
        scores, index = flat.topk(min(self.num_top_queries, flat.shape[1]), dim=1)
        query = index // self.num_classes
        return scores, index - query * self.num_classes, query  # modulo is avoided for TensorRT

    def _best_classes(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels and query numbers (B, K) of the queries with the highest best class."""
        score, label = logits.softmax(dim=-1)[..., :-1].max(dim=-1)  # (B, Q)
        scores, query = score.topk(min(self.num_top_queries, score.shape[1]), dim=1)
        return scores, label.gather(1, query), query
