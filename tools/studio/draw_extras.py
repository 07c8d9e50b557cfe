"""Animal ears, horns, glasses and headgear, in head space."""

from __future__ import annotations

import skia

from . import palette, shapes
from .identity import Identity
from .shapes import mirrored, polygon, smooth


class Extras:
    """Accessories of one identity.

    behind: under the front hair; glasses: in feature space; above: over the front hair.
    """

    def __init__(self, who: Identity) -> None:
        self.who = who
        self.top = -70 - who.volume
        self.w = who.face_w + 5
        self._gear = shapes.vertical(
            self.top - 10,
            10,
            [(0, palette.lighten(who.gear_colour, 0.22), 1), (1, palette.shadow(who.gear_colour, 0.5), 1)],
        )
        self._gear_flat = shapes.fill(who.gear_colour)
        self._gear_dark = shapes.fill(palette.shadow(who.gear_colour, 1.0))
        self._pen = shapes.line(palette.ink(who.gear_colour), 3.6)
        self._accent = shapes.fill(palette.lighten(who.accent, 0.15))
        self._accent_pen = shapes.line(palette.ink(who.accent), 3.2)
        self.behind = shapes.record(self._behind)
        self.glasses = shapes.record(self._glasses) if who.glasses != "none" else None
        self.above = shapes.record(self._above)

    def _behind(self, c: skia.Canvas) -> None:
        who, w, top = self.who, self.w, self.top
        fur = shapes.vertical(
            top - 30, top + 50, [(0, palette.lighten(who.hair, 0.1), 1), (1, palette.shadow(who.hair, 0.4), 1)]
        )
        pen = shapes.line(palette.ink(who.hair), 4.0)
        pink = palette.mix((0.98, 0.72, 0.74), palette.lighten(who.hair, 0.3), 0.3)
        for s in (-1, 1):
            if who.ears in ("cat", "fox"):
                k = 1.0 if who.ears == "cat" else 1.18
                ear = smooth(
                    [
                        (s * 18, top + 16),
                        (s * 34, top - 8 * k),
                        (s * (50 + 4 * k), top - 24 * k),
                        (s * (61 + k), top + 2),
                        (s * (w + 1), top + 46),
                    ],
                    True,
                    0.35,
                )
                inner = smooth(
                    [
                        (s * 30, top + 14),
                        (s * 40, top - 2 * k),
                        (s * (50 + 3 * k), top - 14 * k),
                        (s * 57, top + 8),
                        (s * 55, top + 30),
                    ],
                    True,
                    0.35,
                )
                shapes.outlined(c, ear, fur, pen)
                c.drawPath(inner, shapes.fill(pink if who.ears == "cat" else palette.lighten(who.hair, 0.75)))
                for dx in (0, 7):
                    c.drawPath(shapes.leaf((s * (38 + dx), top + 26), (s * (46 + dx), top + 2), 7, 0), fur)
            elif who.ears == "bear":
                shapes.outlined(c, skia.Path.Circle(s * 44, top + 8, 21), fur, pen)
                c.drawCircle(s * 44, top + 9, 12, shapes.fill(pink))
            elif who.ears == "bunny":
                ear = smooth(
                    [
                        (s * 20, top + 14),
                        (s * 18, top - 10),
                        (s * 34, top - 18),
                        (s * 56, top - 13),
                        (s * 76, top + 16),
                        (s * 70, top + 30),
                        (s * 57, top + 13),
                        (s * 43, top + 2),
                        (s * 40, top + 18),
                    ],
                    True,
                    0.9,
                )
                shapes.outlined(c, ear, fur, pen)
                inner = smooth(
                    [
                        (s * 27, top + 4),
                        (s * 26, top - 6),
                        (s * 36, top - 10),
                        (s * 54, top - 5),
                        (s * 44, top - 3),
                        (s * 34, top + 1),
                    ],
                    True,
                    0.9,
                )
                c.drawPath(inner, shapes.fill(pink))
            elif who.ears == "horns":
                bone = palette.mix(who.accent, (0.25, 0.2, 0.25), 0.55)
                horn = smooth(
                    [
                        (s * 24, top + 16),
                        (s * 36, top - 6),
                        (s * 59, top - 12),
                        (s * 65, top - 26),
                        (s * 74, top - 4),
                        (s * 62, top + 13),
                        (s * 46, top + 24),
                    ],
                    True,
                    0.7,
                )
                shapes.outlined(
                    c,
                    horn,
                    shapes.vertical(top - 26, top + 20, [(0, palette.lighten(bone, 0.45), 1), (1, bone, 1)]),
                    shapes.line(palette.ink(bone), 3.6),
                )
        if who.headgear == "halo":
            c.drawOval(shapes.oval(0, top - 11, 42, 8), shapes.line(palette.ink(palette.hexa("f4d27a")), 7))
            c.drawOval(shapes.oval(0, top - 11, 42, 8), shapes.line(palette.hexa("ffe9a0"), 4))

    def _glasses(self, c: skia.Canvas) -> None:
        who = self.who
        pen = shapes.line(who.glass_colour, 2.6)
        tint = shapes.fill((0.85, 0.93, 1.0), 0.13)
        r = max(who.eye_w, who.eye_h) + 4.5
        for s in (-1, 1):
            x, y = s * who.eye_x, 4
            p = skia.Path()
            if who.glasses == "round":
                p.addOval(shapes.oval(x, y, r, r))
            elif who.glasses == "square":
                p.addRoundRect(shapes.oval(x, y + 1, r + 1.5, r - 2.5), 7, 7)
            else:
                p.moveTo(x - r, y - 4)
                p.cubicTo(x - r, y + r * 1.3, x + r, y + r * 1.3, x + r, y - 4)
            c.drawPath(p, tint)
            c.drawPath(p, pen)
            if who.glasses != "half":
                c.drawLine(x - 11, y - 9, x - 4, y - 15, shapes.line((1, 1, 1), 2.2, 0.65))
            c.drawLine(s * (who.eye_x + r), y - 2, s * (who.face_w - 3), y - 6, pen)
        inner = who.eye_x - r
        bridge = skia.Path()
        bridge.moveTo(-inner, 3)
        bridge.quadTo(0, -3, inner, 3)
        c.drawPath(bridge, pen)

    def _bow(self, c: skia.Canvas, x: float, y: float, k: float, tilt: float) -> None:
        c.save()
        c.translate(x, y)
        c.rotate(tilt)
        for s in (-1, 1):
            tail = polygon([(0, 2 * k), (s * 15 * k, 24 * k), (s * 7 * k, 22 * k), (s * 3 * k, 25 * k)])
            shapes.outlined(c, tail, self._gear_dark, self._pen)
            wing = smooth(
                [(0, 0), (s * 14 * k, -13 * k), (s * 27 * k, -9 * k), (s * 27 * k, 8 * k), (s * 13 * k, 9 * k)],
                True,
                0.85,
            )
            shapes.outlined(c, wing, self._gear_flat, self._pen)
            c.drawLine(s * 7 * k, 0, s * 17 * k, -1 * k, shapes.line(palette.ink(self.who.gear_colour), 1.6, 0.6))
        shapes.outlined(c, skia.Path.Oval(shapes.oval(0, 0, 6 * k, 7 * k)), self._gear_flat, self._pen)
        c.restore()

    def _flower(self, c: skia.Canvas, x: float, y: float, r: float) -> None:
        petals = shapes.union(
            [
                skia.Path.Circle(x + r * dx, y + r * dy, r * 0.68)
                for dx, dy in ((0, -0.85), (0.81, -0.26), (0.5, 0.69), (-0.5, 0.69), (-0.81, -0.26))
            ]
        )
        shapes.outlined(c, petals, self._gear_flat, self._pen)
        c.drawCircle(x, y, r * 0.5, shapes.fill(palette.hexa("ffe08a")))

    def _above(self, c: skia.Canvas) -> None:
        who, w, top = self.who, self.w, self.top
        s = -1 if who.flip else 1
        gear = who.headgear
        if gear == "ribbon":
            self._bow(c, 0, top + 4, 1.15, 0)
        elif gear == "sidebow":
            self._bow(c, s * (w - 10), -38, 0.85, s * 24)
        elif gear == "flower":
            self._flower(c, s * (w - 11), -34, 11)
            self._flower(c, s * (w - 1), -18, 7)
        elif gear == "clips":
            for dy in (0, 9):
                c.save()
                c.translate(s * (w - 18), -30 + dy)
                c.rotate(s * -28)
                p = skia.Path()
                p.addRoundRect(shapes.oval(0, 0, 11, 2.6), 2.4, 2.4)
                shapes.outlined(c, p, self._gear_flat, self._pen)
                c.restore()
        elif gear == "headphones":
            band = skia.Path()
            band.moveTo(-w - 3, -2)
            band.cubicTo(-w - 6, (top - 12) * 1.33, w + 6, (top - 12) * 1.33, w + 3, -2)
            c.drawPath(band, shapes.line(palette.ink(who.gear_colour), 12))
            c.drawPath(band, shapes.line(who.gear_colour, 8))
            c.drawPath(band, shapes.line(palette.lighten(who.gear_colour, 0.5), 2.0, 0.6))
            for k in (-1, 1):
                p = skia.Path()
                p.addRoundRect(shapes.oval(k * (w + 4), 6, 10, 20), 9, 9)
                shapes.outlined(c, p, self._gear_flat, self._pen)
                q = skia.Path()
                q.addRoundRect(shapes.oval(k * (w + 8), 6, 4, 12), 4, 4)
                c.drawPath(q, self._accent)
        elif gear == "beret":
            hat = smooth(
                [
                    (-w + 2, top + 30),
                    (-w - 8, top + 6),
                    (-s * 8, top - 16),
                    (w + 8, top + 2),
                    (w - 2, top + 28),
                    (0, top + 17),
                ],
                True,
                1.0,
            )
            shapes.outlined(c, hat, self._gear, self._pen)
            c.drawLine(0, top - 14, s * 3, top - 22, self._pen)
            rim = skia.Path()
            rim.moveTo(-w + 5, top + 30)
            rim.quadTo(0, top + 10, w - 5, top + 29)
            c.drawPath(rim, shapes.line(palette.shadow(who.gear_colour, 1.2), 5))
        elif gear == "cap":
            dome = skia.Path()
            dome.moveTo(-w - 2, -36)
            dome.cubicTo(-w - 4, top * 1.33, w + 4, top * 1.33, w + 2, -36)
            dome.quadTo(0, -54, -w - 2, -36)
            dome.close()
            shapes.outlined(c, dome, self._gear, self._pen)
            brim = smooth([(-w - 2, -37), (0, -55), (w + 2, -37), (w - 4, -27), (0, -40), (-w + 4, -27)], True, 0.9)
            shapes.outlined(c, brim, self._gear_dark, self._pen)
            shapes.outlined(c, skia.Path.Circle(0, top + 16, 8), self._accent, self._accent_pen)
        elif gear == "headband":
            band = skia.Path()
            band.moveTo(-w + 1, -32)
            band.cubicTo(-w * 0.8, top - 6, w * 0.8, top - 6, w - 1, -32)
            c.drawPath(band, shapes.line(palette.ink(who.gear_colour), 10))
            c.drawPath(band, shapes.line(who.gear_colour, 6.5))
        elif gear == "crown":
            gold = palette.hexa("f4c95a")
            p = polygon(
                [(-26, top + 14), (-30, top - 12), (-14, top), (0, top - 19), (14, top), (30, top - 12), (26, top + 14)]
            )
            shapes.outlined(
                c,
                p,
                shapes.vertical(top - 19, top + 14, [(0, palette.lighten(gold, 0.5), 1), (1, gold, 1)]),
                shapes.line(palette.ink(gold), 3.4),
            )
            c.drawCircle(0, top + 3, 4, self._gear_flat)
