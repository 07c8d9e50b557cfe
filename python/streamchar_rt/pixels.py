"""Pixel formats."""
from __future__ import annotations

import numpy as np
import numpy.typing as npt

BACKGROUND = (232, 236, 242)  # what a picture without alpha is composed over

Pixels = npt.NDArray[np.uint8]


def convert(rgba: Pixels, pixel_format: str) -> Pixels:
    """Straight-alpha RGBA (..., 4) in a session's pixel format; "rgba" is passed through."""
    if pixel_format == "bgra":
        return np.ascontiguousarray(rgba[..., [2, 1, 0, 3]])
    if pixel_format == "rgb":
        return compose(rgba)
    return rgba


def compose(rgba: Pixels, background: tuple[int, int, int] = BACKGROUND) -> Pixels:
    """Straight-alpha RGBA (..., 4) over a colour, rounded to nearest: (..., 3)."""
    alpha = rgba[..., 3:].astype(np.uint16)
    over = rgba[..., :3] * alpha + np.array(background, np.uint16) * (255 - alpha) + 127  # at most 255 * 255 + 127
    return (over // 255).astype(np.uint8)
