"""A studio character: identity in, frames out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import skia

from . import shapes
from .draw_body import Body
from .draw_extras import Extras
from .draw_eyes import Eyes
from .draw_face import Face, face_path
from .draw_hair import Hair
from .draw_mouth import MOUTH_Y, Mouth
from .identity import Identity
from .pose import POSE_FIELDS

__all__ = ["Identity", "Renderer"]

_CENTRE = (128.0, 123.0)  # head space origin in the 256 px picture
_ZOOM, _FIXED = 1.08, (128.0, 240.0)  # the whole drawing enlarged about this point
_NECK = (128.0, 205.0)  # pivot of the head's tilt

# Parallax: px a layer moves at yaw = 1 and pitch = 1. Nearer layers move further.
_DEPTH = {
    "back": (-3.5, -1.5),
    "ears": (-1.0, -1.0),
    "face": (2.5, 2.0),
    "feature": (8.0, 6.0),
    "front": (5.0, 3.5),
    "side": (4.0, 2.5),
    "behind": (1.0, 1.0),
    "above": (4.0, 2.5),
}


class Renderer:
    """Draws one identity at one size. Not thread-safe: use one per thread."""

    def __init__(self, identity: Identity, size: int = 256) -> None:
        if size < 16:
            raise ValueError(f"size must be at least 16 px, not {size}")
        self.identity = identity
        self.size = size
        self._pixels = np.zeros((size, size, 4), np.uint8)
        # Called BGRA, holds RGBA: see palette.argb.
        info = skia.ImageInfo.Make(size, size, skia.kBGRA_8888_ColorType, skia.kPremul_AlphaType)
        self._surface = skia.Surface.MakeRasterDirect(info, self._pixels)
        self._canvas = self._surface.getCanvas()
        self._view = self.view(size)
        self._straight = skia.ImageInfo.Make(size, size, skia.kBGRA_8888_ColorType, skia.kUnpremul_AlphaType)
        self._eyes, self._mouth, self._face = Eyes(identity), Mouth(identity), Face(identity)
        self._hair, self._body, self._extras = Hair(identity), Body(identity), Extras(identity)
        # What leaves the face when the layers part is hidden by the fringe itself.
        self._shadow = shapes.inside([shapes.moved(self._hair.front_path, 0, 6)], face_path(identity, 0.0, 0.0))

    def draw(self, pose: np.ndarray, premultiplied: bool = False) -> np.ndarray:
        """Render a pose (P,) to uint8 (size, size, 4) RGBA.

        Straight alpha by default; `premultiplied=True` is the native layout and the faster path.
        Raises ValueError for a pose of another length.
        """
        if len(pose) != len(POSE_FIELDS):
            raise ValueError(f"a pose has {len(POSE_FIELDS)} fields (pose.POSE_FIELDS), not {len(pose)}")
        c = self._canvas
        c.clear(0)
        c.save()
        c.concat(self._view)
        self.paint(c, pose)
        c.restore()
        if premultiplied:
            return self._pixels.copy()
        out = np.empty_like(self._pixels)
        self._surface.readPixels(self._straight, out, self.size * 4, 0, 0)
        return out

    def paint(self, c: skia.Canvas, pose: np.ndarray, part: Callable[[str], AbstractContextManager] = nullcontext) -> None:
        """Draw a pose on a canvas of 256 px. Each part that moves as one is drawn inside ``part(name)``."""
        self._paint(c, part, *map(float, pose))

    def boxes(self, pose: np.ndarray) -> dict[str, tuple[float, float, float, float]]:
        """Bounds of eye_l, eye_r (the picture's left and right) and mouth as (x0, y0, x1, y1) px.

        The boxes follow the head and hold the parts at their widest, whatever they do now.
        """
        f = dict(zip(POSE_FIELDS, map(float, pose)))
        m = skia.Matrix()
        m.preConcat(self._view)
        m.preConcat(self._head_matrix(f["yaw"], f["pitch"], f["roll"], f["head_x"], f["head_y"]))
        m.preTranslate(*_layer("feature", f["yaw"], f["pitch"]))
        local = {"eye_l": self._eyes.box(-1), "eye_r": self._eyes.box(1), "mouth": self._mouth.box()}
        out = {}
        for name, box in local.items():
            r = m.mapRect(skia.Rect.MakeLTRB(*box))
            out[name] = tuple(min(float(self.size), max(0.0, v)) for v in (r.left(), r.top(), r.right(), r.bottom()))
        return out

    @staticmethod
    def view(size: int) -> skia.Matrix:
        """From the drawing's 256 px space to a picture of ``size``."""
        m = skia.Matrix()
        m.setScale(_ZOOM, _ZOOM, *_FIXED)
        m.postScale(size / 256, size / 256)
        return m

    @staticmethod
    def _head_matrix(yaw: float, pitch: float, roll: float, head_x: float, head_y: float) -> skia.Matrix:
        m = skia.Matrix()
        m.setRotate(6.0 * roll, *_NECK)
        m.postTranslate(4.0 * head_x + 1.5 * yaw, 3.0 * head_y + 1.0 * pitch)
        m.preTranslate(*_CENTRE)
        return m

    def _paint(
        self,
        c: skia.Canvas,
        part: Callable[[str], AbstractContextManager],
        yaw: float,
        pitch: float,
        roll: float,
        head_x: float,
        head_y: float,
        breath: float,
        hair_sway: float,
        mouth_open: float,
        mouth_wide: float,
        mouth_round: float,
        teeth: float,
        tongue: float,
        blink_l: float,
        blink_r: float,
        gaze_x: float,
        gaze_y: float,
        brow_raise: float,
        brow_furrow: float,
        smile: float,
        blush: float,
        eye_squint: float,
    ) -> None:
        head = self._head_matrix(yaw, pitch, roll, head_x, head_y)

        def layer(name: str) -> None:
            c.translate(*_layer(name, yaw, pitch))

        c.save()
        c.concat(head)
        layer("back")
        c.concat(_sway(hair_sway * 0.055))
        with part("back"):
            c.drawPicture(self._hair.back)
        c.restore()

        c.save()
        c.translate(128 + 2.2 * head_x, 1.0 * head_y - 1.8 * breath)
        c.scale(1 + 0.010 * breath, 1)
        with part("body"):
            c.drawPicture(self._body.picture)
        c.restore()

        c.save()
        c.concat(head)
        c.save()
        layer("ears")
        with part("ears"):
            c.drawPicture(self._face.ears)
        c.restore()

        c.save()
        layer("face")
        with part("face"):
            self._face.draw(c, 4.0 * mouth_open, yaw)
        c.restore()
        c.save()
        layer("front")
        with part("shadow"):
            c.drawPath(self._shadow, self._face.hair_shadow)
        c.restore()

        c.save()
        layer("feature")
        with part("feature"):
            self._face.cheeks(c, blush, yaw)
            self._face.beard(c, mouth_open)
            c.drawPicture(self._face.marks)
            c.save()
            c.translate(0, MOUTH_Y)
            c.scale(1 - 0.06 * abs(yaw), 1)
            self._mouth.draw(c, mouth_open, mouth_wide, mouth_round, teeth, tongue, smile)
            c.restore()
            self._eyes.draw(c, (blink_l, blink_r), (gaze_x, gaze_y), eye_squint, yaw)
            self._eyes.brows(c, brow_raise, brow_furrow, yaw, veil=False)
            if self._extras.glasses:
                c.drawPicture(self._extras.glasses)
        c.restore()

        c.save()
        layer("behind")
        with part("behind"):
            c.drawPicture(self._extras.behind)
        c.restore()
        c.save()
        layer("side")
        c.concat(_sway(hair_sway * 0.045))
        with part("side"):
            c.drawPicture(self._hair.sides)
        c.restore()
        c.save()
        layer("front")
        with part("front"):
            c.drawPicture(self._hair.front)
        c.restore()
        c.save()
        layer("feature")
        with part("veil"):
            self._eyes.brows(c, brow_raise, brow_furrow, yaw, veil=True)
        c.restore()
        layer("above")
        with part("above"):
            c.drawPicture(self._extras.above)
        c.restore()


def _layer(name: str, yaw: float, pitch: float) -> tuple[float, float]:
    kx, ky = _DEPTH[name]
    return kx * yaw, ky * pitch


def _sway(k: float) -> skia.Matrix:
    """Shear that moves hair below the crown sideways and leaves the crown."""
    m = skia.Matrix()
    m.setSkew(k, 0, 0, -50)
    return m
