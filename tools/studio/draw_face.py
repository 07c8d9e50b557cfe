"""The face without its moving features: outline, nose, cheeks, marks, beard, human and elf ears."""

from __future__ import annotations

import skia

from . import palette, shapes
from .identity import Identity


def face_path(who: Identity, jaw_drop: float, yaw: float) -> skia.Path:
    """Outline in head space; the jaw drops with speech and the far cheek narrows with yaw."""
    w, chin, j = who.face_w, who.chin + jaw_drop, who.jaw
    path = skia.Path()
    right, left = w * (1 - 0.045 * yaw), w * (1 + 0.045 * yaw)
    tip = 4.0 * yaw
    cheek_y, chin_w = 26 + 5 * j, 5.5 + 12 * j
    jaw_x, jaw_y = 0.585 + 0.165 * j, chin - 18 + 4 * j
    path.moveTo(-left, -16)
    path.cubicTo(-left * 1.01, 4, -left * 0.985, cheek_y - 10, -left * 0.93, cheek_y)
    path.cubicTo(
        -left * (0.87 + 0.03 * j),
        cheek_y + 12,
        -left * jaw_x - 4 + tip * 0.5,
        jaw_y - 2,
        -left * jaw_x * 0.78 + tip * 0.7,
        jaw_y + 6,
    )
    path.cubicTo(-chin_w * 1.7 + tip, chin - 3.5, -chin_w * 0.7 + tip, chin, tip, chin)
    path.cubicTo(chin_w * 0.7 + tip, chin, chin_w * 1.7 + tip, chin - 3.5, right * jaw_x * 0.78 + tip * 0.7, jaw_y + 6)
    path.cubicTo(
        right * jaw_x + 4 + tip * 0.5, jaw_y - 2, right * (0.87 + 0.03 * j), cheek_y + 12, right * 0.93, cheek_y
    )
    path.cubicTo(right * 0.985, cheek_y - 10, right * 1.01, 4, right, -16)
    path.cubicTo(right * 0.98, -88, -left * 0.98, -88, -left, -16)
    path.close()
    return path


class Face:
    """Draws the face of one identity."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        skin = who.skin
        self.ink = palette.ink(palette.skin_shadow(skin), 0.82)
        self._pen = shapes.line(self.ink, 3.6)
        self._skin = shapes.fill(skin)
        self.hair_shadow = shapes.fill(palette.skin_shadow(skin, 0.98))
        rouge = palette.mix((0.98, 0.42, 0.45), palette.multiply(skin, (1.0, 0.5, 0.5)), 0.35)
        self._cheek = shapes.radial(0, 0, 15, [(0, rouge, 0.8), (0.55, rouge, 0.42), (1, rouge, 0.0)])
        self._hatch = shapes.line(palette.multiply(rouge, (0.95, 0.75, 0.75)), 1.5, 0.8)
        self.ears = shapes.record(self._ears)
        self.marks = shapes.record(self._marks)
        self._beard_fill = shapes.fill(palette.mix(who.hair, palette.ink(who.hair), 0.25), 0.95)
        self._stubble = shapes.fill(palette.mix(skin, palette.ink(who.hair), 0.5), 0.22)

    def _ears(self, c: skia.Canvas) -> None:
        who = self.who
        if who.ears in ("cat", "fox", "bunny", "bear"):
            return
        skin, pen = shapes.fill(palette.skin_shadow(who.skin, 0.25)), shapes.line(self.ink, 3.4)
        w = who.face_w
        if who.ears == "elf":
            ear = shapes.smooth(
                [(w - 6, 0), (w + 8, -6), (w + 24, -20), (w + 31, -25), (w + 24, -4), (w + 10, 17), (w - 6, 22)],
                True,
                0.8,
            )
            inner = shapes.smooth([(w + 2, 3), (w + 12, -3), (w + 24, -17), (w + 17, 1), (w + 6, 13)], True, 0.8)
        else:
            ear = shapes.smooth([(w - 6, -6), (w + 3, -9), (w + 8, -2), (w + 6, 10), (w, 21), (w - 7, 20)], True, 1.0)
            inner = shapes.smooth([(w, -3), (w + 4, -2), (w + 3.5, 6), (w - 1, 14), (w - 2, 6)], True, 1.0)
        for flip in (False, True):
            e, i = (shapes.flipped(ear), shapes.flipped(inner)) if flip else (ear, inner)
            shapes.outlined(c, e, skin, pen)
            c.drawPath(i, shapes.fill(palette.skin_shadow(who.skin, 1.2), 0.8))
            side = -1 if flip else 1
            if who.earrings == "stud":
                c.drawCircle(side * (w + 1.5), 22, 3.0, shapes.line(palette.ink(who.accent), 1.4))
                c.drawCircle(side * (w + 1.5), 22, 2.8, shapes.fill(palette.lighten(who.accent, 0.3)))
            elif who.earrings == "drop":
                drop = shapes.polygon(
                    [(side * (w + 2), 20), (side * (w + 6), 33), (side * (w + 2), 39), (side * (w - 2), 33)]
                )
                shapes.outlined(
                    c, drop, shapes.fill(palette.lighten(who.accent, 0.2)), shapes.line(palette.ink(who.accent), 1.8)
                )

    def _marks(self, c: skia.Canvas) -> None:
        """Nose and everything painted on the skin, in feature space."""
        who = self.who
        shade, y = palette.skin_shadow(who.skin, 1.6), 23.0
        if who.nose == 0:
            c.drawPath(shapes.polygon([(-0.5, y - 3), (2.6, y + 2.2), (-1.8, y + 1.8)]), shapes.fill(shade, 0.85))
        elif who.nose == 1:
            nose = skia.Path()
            nose.moveTo(1.8, y - 9)
            nose.quadTo(4.6, y + 0.5, 2.4, y + 1.8)
            nose.quadTo(0, y + 3, -2, y + 1.6)
            c.drawPath(nose, shapes.line(shade, 1.8, 0.9))
        else:
            c.drawOval(shapes.oval(0.6, y, 2.5, 1.6), shapes.fill(shade, 0.85))
        c.drawOval(shapes.oval(-1.2, y - 3.4, 1.3, 1.7), shapes.fill((1, 1, 1), 0.55))
        if who.age == "old":
            for s in (-1, 1):
                fold = skia.Path()
                fold.moveTo(s * 12, y + 3)
                fold.quadTo(s * 23, y + 9, s * 25, y + 20)
                c.drawPath(fold, shapes.line(shade, 1.6, 0.65))
                bag = skia.Path()
                bag.moveTo(s * 18, 23)
                bag.quadTo(s * 28, 27, s * 38, 22)
                c.drawPath(bag, shapes.line(shade, 1.4, 0.5))
        if who.freckles:
            spot = shapes.fill(palette.multiply(who.skin, (0.78, 0.58, 0.48)), 0.75)
            for x, dy in (
                (-33, 2),
                (-27, -1),
                (-22, 3),
                (-29, 5),
                (-17, 0),
                (17, 0),
                (22, 3),
                (27, -1),
                (33, 2),
                (29, 5),
                (-5, -4),
                (6, -4),
            ):
                c.drawCircle(x, y + dy - 1, 1.15, spot)
        if who.mole:
            x, my = {1: (-37, 25), 2: (36, 25), 3: (21, 50)}[who.mole]
            c.drawCircle(x, my, 1.5, shapes.fill(palette.ink(who.skin)))
        if who.marks == "scar":
            scar = skia.Path()
            scar.moveTo(36, -26)
            scar.quadTo(39, 0, 34, 33)
            c.drawPath(scar, shapes.line(palette.multiply(who.skin, (0.9, 0.6, 0.58)), 2.2, 0.9))
        elif who.marks == "paint":
            for s in (-1, 1):
                c.drawPath(
                    shapes.polygon([(s * 40, 22), (s * 46, 24), (s * 42, 40), (s * 38, 38)]),
                    shapes.fill(who.accent, 0.9),
                )
        elif who.marks == "whiskers":
            for s in (-1, 1):
                for k in (-1, 0, 1):
                    hair = skia.Path()
                    hair.moveTo(s * 33, y + 10 + 5 * k)
                    hair.lineTo(s * 47, y + 8 + 7 * k)
                    c.drawPath(hair, shapes.line(shade, 1.7, 0.8))
        elif who.marks == "plaster":
            c.save()
            c.translate(-36, 31)
            c.rotate(-24)
            strip = skia.Path()
            strip.addRoundRect(shapes.oval(0, 0, 9, 3.6), 3.4, 3.4)
            shapes.outlined(c, strip, shapes.fill((0.98, 0.87, 0.72)), shapes.line((0.6, 0.42, 0.36), 1.6))
            c.restore()

    def draw(self, c: skia.Canvas, jaw_drop: float, yaw: float) -> None:
        """Fill and outline in head space."""
        path = face_path(self.who, jaw_drop, yaw)
        c.drawPath(path, self._pen)
        c.drawPath(path, self._skin)

    def beard(self, c: skia.Canvas, open_: float) -> None:
        """Facial hair in feature space, following the jaw."""
        who, drop = self.who, 9 * open_
        if who.beard == "none":
            return
        w, chin = who.face_w, who.chin
        if who.beard in ("full", "stubble"):
            p = skia.Path()
            p.moveTo(-w * 0.97, 6)
            p.cubicTo(-w * 0.95, chin * 0.75, -w * 0.5, chin + 3 + drop * 0.3, 0, chin + 4 + drop * 0.3)
            p.cubicTo(w * 0.5, chin + 3 + drop * 0.3, w * 0.95, chin * 0.75, w * 0.97, 6)
            p.cubicTo(w * 0.8, 30, w * 0.55, 30, 22, 31)
            p.quadTo(0, 27, -22, 31)
            p.cubicTo(-w * 0.55, 30, -w * 0.8, 30, -w * 0.97, 6)
            p.close()
            c.drawPath(p, self._beard_fill if who.beard == "full" else self._stubble)
        if who.beard == "goatee":
            p = shapes.smooth(
                [
                    (-9, chin - 9 + drop * 0.9),
                    (9, chin - 9 + drop * 0.9),
                    (10, chin - 1 + drop * 0.6),
                    (0, chin + 5 + drop * 0.4),
                    (-10, chin - 1 + drop * 0.6),
                ],
                True,
                0.9,
            )
            c.drawPath(p, self._beard_fill)
        if who.beard in ("moustache", "goatee"):
            p = skia.Path()
            p.moveTo(-22, 36)
            p.cubicTo(-14, 28, -5, 28, 0, 31)
            p.cubicTo(5, 28, 14, 28, 22, 36)
            p.cubicTo(14, 35.5, 5, 35, 0, 34.5)
            p.cubicTo(-5, 35, -14, 35.5, -22, 36)
            p.close()
            c.drawPath(p, self._beard_fill)

    def cheeks(self, c: skia.Canvas, blush: float, yaw: float) -> None:
        """Blush in feature space."""
        if blush <= 0.01:
            return
        self._cheek.setAlphaf(min(1.0, 0.15 + 0.85 * blush) * min(1.0, blush * 8))
        for side in (-1, 1):
            c.save()
            c.translate(side * (self.who.eye_x + 6), 26)
            c.scale(1.05 * (1 - 0.11 * side * yaw), 0.62)
            c.drawCircle(0, 0, 15, self._cheek)
            if blush > 0.5:
                self._hatch.setAlphaf((blush - 0.5) * 1.3)
                for k in (-1, 0, 1):
                    c.drawLine(k * 6 + 2, -5, k * 6 - 2, 6, self._hatch)
            c.restore()
