"""Counter-based noise: the same session gives the same bytes whatever else runs."""
from __future__ import annotations

import numpy as np
import torch

VIDEO, AUDIO = 0, 1


def noise(shape: tuple[int, ...], *, seed: int, chunk: int, step: int, stream: int) -> torch.Tensor:
    """Standard normal float32, a pure function of its arguments (Philox, Salmon et al. 2011)."""
    key = np.array([seed & (2 ** 64 - 1), (chunk << 16) | (step << 4) | stream], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
