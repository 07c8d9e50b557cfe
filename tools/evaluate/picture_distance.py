"""Distance of two sets of pictures as distributions: the Fréchet distance on a fixed random feature.

The usual Fréchet Inception distance needs a network trained on photographs. Here the feature is a convolutional
network with **random weights of seed 0** (three layers; 64 numbers a picture: means over the picture of the second
and third layer's channels), which nobody has trained and nobody can have trained against. It sees colours, edges and
their texture, not what they mean. The distance is given in units of the truth's own total variance: 0 where both
sets are alike; 1 is as much as all of the truth's variety.
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tools.evaluate.mouth_reader import over_grey

SEED = 0
SIDE = 64  # px: pictures are averaged down to it
WIDTH = 64  # numbers a picture


class PictureFeatures:
    """uint8 (T, H, W, 4) straight alpha, sides a multiple of 64, to float32 (T, 64)."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(SEED)
        draw = lambda o, i, k: torch.randn(o, i, k, k, generator=generator) * (2 / (i * k * k)) ** 0.5
        self._weights = [draw(32, 3, 5), draw(32, 32, 3), draw(32, 32, 3)]

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        x = over_grey(pictures, premultiplied=False)
        x = F.avg_pool2d(x, x.shape[-1] // SIDE) * 2 - 1
        pooled = []
        for weight in self._weights:
            x = F.relu(F.conv2d(x, weight, stride=2, padding=weight.shape[-1] // 2))
            pooled.append(x.mean((2, 3)))
        return torch.cat(pooled[1:], 1).numpy()


def frechet_distance(features: np.ndarray, truth: np.ndarray) -> float:
    """(M, D) and (N, D) with at least two rows each; in units of the truth's total variance.

    Source: D. Dowson, B. Landau, "The Fréchet distance between multivariate normal distributions", 1982.

    Raises:
        ValueError: for fewer rows, or where all rows of the truth are equal.
    """
    a, b = np.asarray(features, np.float64), np.asarray(truth, np.float64)
    if min(len(a), len(b)) < 2:
        raise ValueError("a distribution needs two pictures at least")
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    total = float(np.trace(covariance_b))
    if total <= 0:
        raise ValueError("the truth's pictures are all equal")
    root = _root(covariance_a)
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariance_b @ root).clip(min=0)).sum()
    distance = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariance_a) + total - 2 * cross
    return max(0.0, float(distance)) / total


def means_part(features: np.ndarray, truth: np.ndarray) -> float:
    """What of ``frechet_distance`` is that of the means: a set that differs from the truth in the same way throughout."""
    a, b = np.asarray(features, np.float64), np.asarray(truth, np.float64)
    return float(np.square(a.mean(0) - b.mean(0)).sum() / np.cov(b.T).trace())


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values.clip(min=0)) @ vectors.T
