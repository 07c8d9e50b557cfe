"""What ``picture_distance`` is to single pictures, for clips of pictures: the Fréchet distance on a random feature of movement.

The usual Fréchet video distance needs a network trained on films. Here the feature is a convolutional network over
time, height and width with **random weights of seed 0** (three layers; 64 numbers a clip of 16 frames: means over time
and place of the second and third layer's channels). The first layer's filters sum to nothing over time, so they answer
to change alone: how much, how fast, of which size and direction. Single pictures are ``picture_distance``'s, and so is the
distance, ``frechet_distance``: 0 where both sets are alike, 1 is as much as all of the truth's variety.
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tools.evaluate.mouth_reader import over_grey
from tools.evaluate.picture_distance import SEED, SIDE

CLIP = 16  # frames
WIDTH = 64  # numbers a clip


class VideoFeatures:
    """uint8 (T, H, W, 4) straight alpha, sides a multiple of 64, to float32 (T // 16, 64); frames beyond are left out."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(SEED)
        draw = lambda o, i, *k: torch.randn(o, i, *k, generator=generator) * (2 / (i * np.prod(k))) ** 0.5
        first = draw(32, 3, 3, 5, 5)
        first -= first.mean(2, keepdim=True)
        self._weights = [first, draw(32, 32, 3, 3, 3), draw(32, 32, 3, 3, 3)]

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        clips = [self._of_clip(frames[i: i + CLIP]) for i in range(0, len(frames) - CLIP + 1, CLIP)]
        return np.stack(clips) if clips else np.zeros((0, WIDTH), np.float32)

    def _of_clip(self, frames: np.ndarray) -> np.ndarray:
        x = over_grey(frames, premultiplied=False)
        x = F.avg_pool2d(x, x.shape[-1] // SIDE) * 2 - 1
        x = F.pad(x.movedim(0, 1)[None], (0, 0, 0, 0, 1, 1), mode="replicate")  # no change before the first and after the last
        pooled = []
        for i, weight in enumerate(self._weights):
            space = weight.shape[-1] // 2
            x = F.relu(F.conv3d(x, weight, stride=(1 if i == 0 else 2, 2, 2), padding=(0 if i == 0 else 1, space, space)))
            pooled.append(x.mean((0, 2, 3, 4)))
        return torch.cat(pooled[1:]).numpy()
