"""True movement of a drawing: where in the rest picture each place of a pose's picture comes from.

Every part of a character moves by an affine map, so the flow is exact wherever one part is all that is seen.
What changes shape inside its part (lids, irises, brows, lips) moves with the part here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import skia

from .character import Renderer
from .pose import REST

_PARTS = ("back", "body", "ears", "face", "feature", "behind", "side", "front", "above")
_SIZE = 128  # px of the label picture
# Colours of the parts: a mixture of two is none of the others, so edges do not pass for a third part.
_LABELS = np.array([(25 * i + 20, 97 * i % 251, 53 * i * i % 241) for i in range(len(_PARTS))], np.uint8)


class MotionMap:
    """The flow from the poses of one character to its rest pose."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._pixels = np.zeros((_SIZE, _SIZE, 4), np.uint8)
        info = skia.ImageInfo.Make(_SIZE, _SIZE, skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
        self._surface = skia.Surface.MakeRasterDirect(info, self._pixels)
        self._tints = {name: _tint(skia.Color(*map(int, label))) for name, label in zip(_PARTS, _LABELS)}
        self._clear = _tint(skia.Color(0, 0, 0, 0))
        self._rest = self._paint(REST)

    def _paint(self, pose: np.ndarray) -> np.ndarray:
        """Draw the parts' labels; returns each part's map from its own space to the 256 px picture, (parts, 3, 3)."""
        c = self._surface.getCanvas()
        c.clear(0)
        matrices = np.tile(np.eye(3), (len(_PARTS), 1, 1))

        @contextmanager
        def part(name: str) -> Iterator[None]:
            if name in _PARTS:
                m = c.getTotalMatrix()
                matrices[_PARTS.index(name)] = np.array([m[i] for i in range(9)]).reshape(3, 3)
            c.saveLayer(None, self._tints.get(name, self._clear))
            yield
            c.restore()

        c.save()
        c.concat(self.renderer.view(_SIZE))
        self.renderer.paint(c, pose, part)
        c.restore()
        matrices[:, :2] *= 256 / _SIZE
        return matrices

    def flow(self, pose: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
        """Flow float32 (2, grid, grid), x and y in pixels of the 256 px picture, from each cell's centre to its place in
        the rest picture; and where it is known, bool (grid, grid): one part alone covers the place."""
        back = self._rest @ np.linalg.inv(self._paint(pose))
        step = _SIZE // grid
        centre = self._pixels[step // 2::step, step // 2::step]
        match = (centre[..., None, :3] == _LABELS).all(-1)
        known, label = match.any(-1) & (centre[..., 3] == 255), match.argmax(-1)
        y, x = np.mgrid[:grid, :grid] * (256.0 / grid) + 128.0 / grid
        m = back[label]
        moved = m[..., :2, 0] * x[..., None] + m[..., :2, 1] * y[..., None] + m[..., :2, 2]
        flow = np.stack([moved[..., 0] - x, moved[..., 1] - y]) * known
        return flow.astype(np.float32), known


def _tint(colour: int) -> skia.Paint:
    """A layer's paint that keeps its alpha and makes all of it one colour."""
    return skia.Paint(ColorFilter=skia.ColorFilters.Blend(colour, skia.BlendMode.kSrcIn))
