"""The product's sound and words without its pictures: the same bits in half the time."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from streamchar_rt import pipeline
from streamchar_rt.codecs.video import to_straight
from streamchar_rt.models import Models


@contextmanager
def sound_only() -> Iterator[None]:
    """Chunks made inside show the reference picture: the latents are denoised, for sound and picture are one model, and
    not decoded. A picture that drifts would be taken back in a rest, and the sound with it; this one does not."""

    def still(models: Models, state: Any, latents: torch.Tensor, moves: Any, stopped: Any) -> tuple[np.ndarray, torch.Tensor]:
        drawn = models.drawn_latents(latents, state.previous_latent)
        return to_straight(state.character.picture).expand(models.chunk_frames, -1, -1, -1).numpy().copy(), drawn[-1]

    with patch.object(pipeline, "_decode_video", still):
        yield
