"""Neck, shoulders and clothes. Body space: the picture's own 256 px coordinates with x = 0 in the middle."""

from __future__ import annotations

import skia

from . import palette, shapes
from .identity import Identity
from .shapes import mirrored, polygon, smooth

_BASE = 266.0


class Body:
    """The body of one identity as one picture."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        self.picture = shapes.record(self._draw)

    def _torso(self, neck_y: float = 206.0) -> skia.Path:
        n, s = self.who.neck, self.who.shoulders
        return mirrored(
            [
                (0, neck_y + 2),
                (n + 6, neck_y),
                (n + 22, neck_y + 7),
                (s - 12, neck_y + 19),
                (s + 1, neck_y + 38),
                (s + 7, _BASE),
                (0, _BASE),
            ],
            0.9,
        )

    def _draw(self, c: skia.Canvas) -> None:
        who = self.who
        n, s = who.neck, who.shoulders
        skin = shapes.fill(palette.skin_shadow(who.skin, 0.12))
        skin_pen = shapes.line(palette.ink(palette.skin_shadow(who.skin), 0.82), 3.4)
        if who.outfit == "dress":
            below = [(n + 7, 208), (s - 20, 222), (s - 6, 240), (s - 4, _BASE), (0, _BASE)]
        else:  # the rest is under cloth
            below = [(n + 7, 208), (n + 18, 214), (n + 14, 238), (0, 250)]
        bare = mirrored([(0, 160), (n, 160), (n - 1, 192), *below], 0.8)
        shapes.outlined(c, bare, skin, skin_pen)
        throat = mirrored([(0, 160), (n, 160), (n - 1, 192), (n + 3, 203), (n * 0.4, 211), (0, 213)], 0.7)
        c.drawPath(shapes.inside([throat], bare), shapes.fill(palette.skin_shadow(who.skin, 1.2)))
        bone = shapes.line(palette.skin_shadow(who.skin, 1.2), 1.8, 0.7)
        for k in (-1, 1):
            p = skia.Path()
            p.moveTo(k * 7, 226)
            p.quadTo(k * 22, 219, k * 40, 222)
            c.drawPath(p, bone)
        cloth, cloth2, accent = who.cloth, who.cloth2, who.accent
        self._main = shapes.fill(cloth)
        self._second = shapes.fill(cloth2)
        self._accent = shapes.fill(accent)
        self._pen = shapes.line(palette.ink(cloth), 3.8)
        self._pen2 = shapes.line(palette.ink(cloth2), 3.6)
        self._pen3 = shapes.line(palette.ink(accent), 3.4)
        self._fold = shapes.line(palette.shadow(cloth, 1.3), 2.0)
        self._shade = shapes.fill(palette.shadow(cloth, 0.75))
        getattr(self, "_" + who.outfit)(c)

    def _cut(self, half: float, depth: float, round_: bool) -> skia.Path:
        """The torso without a neckline cut of the given half width and depth."""
        hole = (
            mirrored([(0, 150), (half, 150), (half, 205), (half * 0.72, 205 + depth * 0.62), (0, 206 + depth)], 0.8)
            if round_
            else polygon([(-half, 150), (half, 150), (half, 204), (0, 206 + depth), (-half, 204)])
        )
        return skia.Op(self._torso(), hole, skia.PathOp.kDifference_PathOp)

    def _folds(self, c: skia.Canvas) -> None:
        """Shade where the arms meet the trunk, and along their outer side."""
        s = self.who.shoulders
        arms = [
            smooth(
                [
                    (k * (s - 13), 233),
                    (k * (s - 17), 246),
                    (k * (s - 15), _BASE),
                    (k * (s - 5), _BASE),
                    (k * (s - 9), 246),
                ],
                True,
                0.8,
            )
            for k in (-1, 1)
        ]
        rims = [smooth([(s - 16, 224), (s - 4, 240), (s - 2, _BASE), (s + 14, _BASE), (s + 8, 230)], True, 0.8)]
        c.drawPath(shapes.inside(arms + rims, self._torso()), self._shade)

    def _hoodie(self, c: skia.Canvas) -> None:
        n = self.who.neck
        shapes.outlined(c, self._cut(n + 12, 22, True), self._main, self._pen)
        hood = mirrored(
            [(0, 236), (n - 1, 223), (n + 4, 202), (n + 15, 196), (n + 27, 207), (n + 20, 228), (0, 252)], 0.9
        )
        hole = mirrored([(0, 150), (n + 4, 150), (n + 5, 204), (n - 2, 220), (0, 233)], 0.8)
        shapes.outlined(c, skia.Op(hood, hole, skia.PathOp.kDifference_PathOp), self._second, self._pen2)
        for k in (-1, 1):
            p = skia.Path()
            p.moveTo(k * 11, 236)
            p.lineTo(k * 13, 262)
            c.drawPath(p, shapes.line(palette.lighten(self.who.accent, 0.35), 2.8))
        self._folds(c)

    def _sailor(self, c: skia.Canvas) -> None:
        n = self.who.neck
        shapes.outlined(c, self._cut(n + 6, 36, False), self._main, self._pen)
        trim = shapes.line(
            palette.lighten(self.who.cloth2, 0.75) if palette.luma(self.who.cloth2) < 0.6 else self.who.accent, 2.0
        )
        for k in (-1, 1):
            collar = polygon([(k * (n + 2), 199), (k * (n + 34), 211), (k * (n + 30), 238), (k * 3, 250)])
            shapes.outlined(c, collar, self._second, self._pen2)
            p = skia.Path()
            p.moveTo(k * (n + 30), 214)
            p.lineTo(k * (n + 26), 234)
            p.lineTo(k * 6, 244)
            c.drawPath(p, trim)
        self._bow(c, 0, 247, 1.0)
        self._folds(c)

    def _bow(self, c: skia.Canvas, x: float, y: float, k: float) -> None:
        for s in (-1, 1):
            wing = smooth(
                [
                    (x, y),
                    (x + s * 12 * k, y - 9 * k),
                    (x + s * 20 * k, y - 6 * k),
                    (x + s * 19 * k, y + 7 * k),
                    (x + s * 10 * k, y + 6 * k),
                ],
                True,
                0.8,
            )
            shapes.outlined(c, wing, self._accent, self._pen3)
        knot = skia.Path()
        knot.addOval(shapes.oval(x, y, 5 * k, 5.5 * k))
        shapes.outlined(c, knot, self._accent, self._pen3)

    def _shirt(self, c: skia.Canvas) -> None:
        n = self.who.neck
        shapes.outlined(c, self._cut(n + 3, 20, False), self._main, self._pen)
        tie = polygon([(-5, 224), (5, 224), (8, 262), (-8, 262)])
        shapes.outlined(c, tie, self._accent, self._pen3)
        shapes.outlined(c, polygon([(-6, 219), (6, 219), (4, 228), (-4, 228)]), self._accent, self._pen3)
        light = shapes.fill(palette.lighten(self.who.cloth, 0.35))
        for k in (-1, 1):
            shapes.outlined(
                c, polygon([(k * (n + 1), 198), (k * (n + 14), 206), (k * 19, 235), (k * 3, 221)]), light, self._pen
            )
        self._folds(c)

    def _turtleneck(self, c: skia.Canvas) -> None:
        n = self.who.neck
        shapes.outlined(c, self._torso(), self._main, self._pen)
        neck = mirrored([(0, 190), (n + 1, 188), (n + 4, 200), (n + 7, 214), (0, 221)], 0.9)
        shapes.outlined(c, neck, shapes.fill(palette.shadow(self.who.cloth, 0.3)), self._pen)
        for x in (-10, -3, 4, 11):
            c.drawLine(x, 200, x * 1.1, 215, self._fold)
        if self.who.gender != "m":
            c.drawLine(-12, 224, 0, 243, shapes.line(self.who.accent, 1.8))
            c.drawLine(12, 224, 0, 243, shapes.line(self.who.accent, 1.8))
            c.drawCircle(0, 244, 4, self._accent)
        self._folds(c)

    def _kimono(self, c: skia.Canvas) -> None:
        n = self.who.neck
        shapes.outlined(c, self._cut(n + 8, 34, False), self._main, self._pen)
        rng_dot = shapes.fill(palette.lighten(self.who.accent, 0.2), 0.85)
        for x, y in ((-60, 236), (-44, 252), (52, 240), (66, 254), (40, 256), (-74, 254)):
            for a, b in ((0, -4), (4, -1), (2.5, 3.5), (-2.5, 3.5), (-4, -1)):
                c.drawCircle(x + a, y + b, 2.3, rng_dot)
        for k, top in ((-1, False), (1, True)):
            band = polygon([(k * (n + 2), 197), (k * (n + 14), 203), (-k * 10, 264), (-k * 24, 264), (-k * 6, 244)])
            shapes.outlined(c, band, self._second, self._pen2)

    def _dress(self, c: skia.Canvas) -> None:
        s = self.who.shoulders
        top = mirrored([(0, 244), (20, 237), (42, 236), (s - 14, 246), (s - 8, _BASE), (0, _BASE)], 0.7)
        shapes.outlined(c, top, self._main, self._pen)
        for k in (-1, 1):
            shapes.outlined(
                c, polygon([(k * 37, 239), (k * 33, 210), (k * 40, 212), (k * 46, 239)]), self._second, self._pen2
            )
        choker = mirrored([(0, 203), (self.who.neck, 200), (self.who.neck + 1, 206), (0, 210)], 0.6)
        c.drawPath(choker, shapes.fill(palette.ink(self.who.cloth2)))
        c.drawCircle(0, 211, 4, self._accent)
        self._bow(c, 0, 246, 0.7)

    def _jacket(self, c: skia.Canvas) -> None:
        n = self.who.neck
        shapes.outlined(c, self._cut(n + 5, 12, True), self._second, self._pen2)
        for k in (-1, 1):
            half = skia.Op(
                self._torso(),
                polygon([(k * 18, 140), (k * 160, 140), (k * 160, 300), (k * 28, 300)]),
                skia.PathOp.kIntersect_PathOp,
            )
            shapes.outlined(c, half, self._main, self._pen)
            shapes.outlined(
                c,
                polygon([(k * (n + 1), 198), (k * (n + 17), 202), (k * (n + 24), 226), (k * 26, 244), (k * 17, 216)]),
                self._main,
                self._pen,
            )
        self._folds(c)
        c.drawCircle(-48, 240, 4.5, self._accent)

    def _suit(self, c: skia.Canvas) -> None:
        n = self.who.neck
        shapes.outlined(c, self._torso(), shapes.fill((0.97, 0.97, 0.98)), shapes.line((0.4, 0.4, 0.48), 3))
        shapes.outlined(c, polygon([(-5, 220), (5, 220), (8, 264), (-8, 264)]), self._accent, self._pen3)
        for k in (-1, 1):
            half = skia.Op(
                self._torso(),
                polygon([(k * (n - 1), 140), (k * 160, 140), (k * 160, 300), (k * 6, 300), (k * (n + 2), 216)]),
                skia.PathOp.kIntersect_PathOp,
            )
            shapes.outlined(c, half, self._main, self._pen)
            lapel = polygon(
                [(k * (n + 1), 203), (k * (n + 15), 206), (k * (n + 22), 228), (k * (n + 12), 232), (k * 8, 268)]
            )
            shapes.outlined(c, lapel, shapes.fill(palette.shadow(self.who.cloth, 0.35)), self._pen)
            shapes.outlined(
                c,
                polygon([(k * n, 196), (k * (n + 5), 200), (k * 14, 226), (k * 3, 217)]),
                shapes.fill((0.99, 0.99, 1)),
                shapes.line((0.4, 0.4, 0.48), 2.6),
            )

    def _coat(self, c: skia.Canvas) -> None:
        n = self.who.neck
        shapes.outlined(c, self._torso(), self._second, self._pen2)
        for k in (-1, 1):
            half = skia.Op(
                self._torso(),
                polygon([(k * 24, 140), (k * 160, 140), (k * 160, 300), (k * 34, 300)]),
                skia.PathOp.kIntersect_PathOp,
            )
            shapes.outlined(c, half, self._main, self._pen)
        scarf = mirrored([(0, 196), (n + 6, 192), (n + 17, 204), (n + 12, 222), (0, 231)], 0.9)
        shapes.outlined(c, scarf, self._accent, self._pen3)
        wrinkle = shapes.line(palette.shadow(self.who.accent, 1.2), 2.0)
        for y, b in ((205, 8), (213, 8)):
            p = skia.Path()
            p.moveTo(-n - 7, y - 3)
            p.quadTo(0, y + b, n + 7, y - 3)
            c.drawPath(p, wrinkle)
        shapes.outlined(c, polygon([(10, 222), (26, 218), (34, 262), (14, 264)]), self._accent, self._pen3)
        self._folds(c)

    def _sweater(self, c: skia.Canvas) -> None:
        n = self.who.neck
        body = self._cut(n + 13, 18, True)
        shapes.outlined(c, body, self._main, self._pen)
        c.save()
        c.clipPath(body, True)
        for y in (244, 254):
            p = skia.Path()
            p.moveTo(-120, y + 6)
            p.quadTo(0, y + 12, 120, y + 6)
            c.drawPath(p, shapes.line(self.who.cloth2, 5.5, 0.95))
        c.restore()
        rim = skia.Path()
        rim.moveTo(-n - 13, 209)
        rim.cubicTo(-n - 4, 229, n + 4, 229, n + 13, 209)
        c.drawPath(rim, shapes.line(palette.ink(self.who.cloth2), 9))
        c.drawPath(rim, shapes.line(self.who.cloth2, 5.5))
        self._folds(c)
