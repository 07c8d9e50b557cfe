"""Counter-based noise: the same session gives the same bytes whatever else runs."""
from __future__ import annotations

import numpy as np
import torch

VIDEO, AUDIO, EYES = 0, 1, 2


def noise(shape: tuple[int, ...], *, seed: int, chunk: int, step: int, stream: int) -> torch.Tensor:
    """Standard normal float32, a pure function of its arguments."""
    return torch.from_numpy(generator(seed=seed, chunk=chunk, step=step, stream=stream).standard_normal(shape, np.float32))


def generator(*, seed: int, chunk: int, step: int, stream: int) -> np.random.Generator:
    """What it draws is a pure function of the arguments (Philox, Salmon et al. 2011)."""
    key = np.array([seed & (2 ** 64 - 1), (chunk << 16) | (step << 4) | stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
