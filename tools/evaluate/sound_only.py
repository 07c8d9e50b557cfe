"""The product's sound and words without its pictures, bit for bit the same, in half the time."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from streamchar_rt import pipeline
from streamchar_rt.models import Models


@contextmanager
def sound_only() -> Iterator[None]:
    """Chunks made inside have empty pictures: the latents are denoised, for sound and picture are one model, and not
    decoded."""

    def blank(models: Models, state: Any, latents: torch.Tensor, stopped: Any) -> tuple[np.ndarray, torch.Tensor]:
        drawn = models.drawn_latents(latents, state.previous_latent)
        return np.zeros((models.chunk_frames, models.height, models.width, 4), np.uint8), drawn[-1]

    with patch.object(pipeline, "_decode_video", blank):
        yield
