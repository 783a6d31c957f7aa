# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Images that look the same: a perceptual hash of 32 x 32 grey values, compared as a whole and searched by a tree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.spatial import cKDTree

LIMIT = 0.25
"""Root mean square difference of two thumbnails, in standard deviations of the pictures, up to which they are alike.

Measured: the same cells under another focus 0.22 (BCCD 37 and 38), re-encoded or resized copies below 0.1, the nearest
pair of really different pictures 0.33 (two document pages); see
docs/datasets_checked.md."""
MIN_CONTRAST = 4.0
"""Grey levels (of 255) of standard deviation below which a picture has no structure to recognise it by."""
_LOW = 4
"""Frequencies a side that the tree searches by."""
_CROWDED, _NEAREST = 20, 10


def alike(thumbnails: NDArray[np.uint8], limit: float = LIMIT) -> list[tuple[int, int, float]]:
    """Pairs of pictures that look the same.

    Every thumbnail is brought to mean 0 and standard deviation 1. Its lowest cosine frequencies (an orthonormal
    transform, so their distance never exceeds the whole distance) are searched by a k-d tree, which therefore loses
    no pair; what it finds is compared as a whole.

    Args:
        thumbnails: (n, s, s) grey values.
        limit: largest root mean square difference of the normalised pictures.

    Returns:
        (first, second, difference) with first < second, in ascending order. Where pictures have more than 20 of their
        like on average (frames of a film), only the 10 most similar candidates of each are compared.
    """
    side = thumbnails.shape[1]
    values = thumbnails.reshape(len(thumbnails), side * side).astype(np.float32)
    spread = values.std(axis=1)
    rows = np.flatnonzero(spread >= MIN_CONTRAST)
    if len(rows) < 2:
        return []
    normal = (values[rows] - values[rows].mean(axis=1, keepdims=True)) / spread[rows, None]
    low = dctn(normal.reshape(-1, side, side), axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW].reshape(len(rows), -1)
    radius = limit * side  # a root mean square of 1 is a distance of sqrt(side * side)
    pairs = _candidates(cKDTree(low), low, radius)
    alike_pairs = []
    for start in range(0, len(pairs), 65536):
        first, second = pairs[start : start + 65536].T
        difference = np.sqrt(((normal[first] - normal[second]) ** 2).mean(axis=1))
        alike_pairs += [
            (int(rows[a]), int(rows[b]), float(d)) for a, b, d in zip(first, second, difference) if d <= limit
        ]
    return sorted(alike_pairs)


def _candidates(tree: cKDTree, points: NDArray[np.float32], radius: float) -> NDArray[np.int64]:
    """(P, 2) pairs within the radius, or of the nearest neighbours where those would be too many to hold."""
    if tree.count_neighbors(tree, radius) <= (2 * _CROWDED + 1) * len(points):
        everything: NDArray[np.int64] = tree.query_pairs(radius, output_type="ndarray")
        return everything
    _, nearest = tree.query(points, min(_NEAREST + 1, len(points)), distance_upper_bound=radius)
    first = np.repeat(np.arange(len(points)), nearest.shape[1])
    pairs = np.sort(np.stack([first, nearest.ravel()], axis=1), axis=1)
    return np.unique(pairs[(pairs[:, 1] < len(points)) & (pairs[:, 0] < pairs[:, 1])], axis=0)
