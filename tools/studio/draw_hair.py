"""Hair in layers: behind everything, beside the face, and the fringe with its shadow.

Head space: origin between the eyes, skull from y = -70, chin near 65. Every mass of hair is
a union of leaf-shaped locks, so its outline is one clean line.
"""

from __future__ import annotations

import math
import random

import skia

from . import palette, shapes
from .identity import Identity
from .shapes import leaf, leaf_line, mirrored, smooth

Lock = tuple[tuple[float, float], tuple[float, float], float, float, float]  # root, tip, width, bend, fatness


class Hair:
    """The hair of one identity, recorded as pictures.

    back: behind body and head; sides: beside the face; front: fringe and crown.
    front_path is the fringe's outline, for its shadow on the face.
    """

    def __init__(self, who: Identity) -> None:
        self.who = who
        rng = random.Random(who.hair_seed)
        base = who.hair
        self.ink = palette.ink(base)
        self._pen = shapes.line(self.ink, 4.0)
        self._strand = shapes.fill(palette.mix(self.ink, palette.shadow(base), 0.5))
        ombre = who.hair_tip != base
        dim, dim_tip = palette.shadow(base, 0.85), palette.shadow(who.hair_tip, 0.85)
        self._back_fill = shapes.vertical(20, 130, [(0, dim, 1), (1, dim_tip, 1)]) if ombre else shapes.fill(dim)
        self._back_deep = shapes.fill(palette.shadow(base, 1.5))
        self._front_fill = (
            shapes.vertical(
                -74, 22, [(0, palette.lighten(base, 0.08), 1), (1, palette.mix(base, who.hair_tip, 0.75), 1)]
            )
            if ombre
            else shapes.fill(palette.lighten(base, 0.05))
        )
        self._side_fill = (
            shapes.vertical(-10, 110, [(0, base, 1), (1, who.hair_tip, 1)]) if ombre else shapes.fill(base)
        )
        bright = palette.luma(base) > 0.75
        self._gloss = shapes.fill(palette.lighten(base, 0.8 if bright else 0.42))
        self._streak = shapes.fill(who.streak) if who.streak else None
        self.w = who.face_w + 5
        self.top = -70 - who.volume

        locks = self._fringe(rng)
        cap = self._cap()
        self.front_path = shapes.union([cap] + [leaf(r, t, w, b, f) for r, t, w, b, f in locks])
        side_locks = self._sides(rng)
        back = self._back(rng)
        self.back = shapes.record(lambda c: self._draw_back(c, *back))
        self.sides = shapes.record(lambda c: self._draw_locks(c, side_locks, self._side_fill))
        self.front = shapes.record(lambda c: self._draw_front(c, locks, rng))

    # --- drawing -------------------------------------------------------------------------

    def _draw_locks(self, c: skia.Canvas, locks: list[Lock], paint: skia.Paint) -> None:
        if not locks:
            return
        whole = shapes.union([leaf(r, t, w, b, f) for r, t, w, b, f in locks])
        shapes.outlined(c, whole, paint, self._pen)
        if self._streak:
            c.drawPath(
                shapes.inside([leaf(r, t, w * 0.34, b + w * 0.1, 0.9) for r, t, w, b, _ in locks[::2]], whole),
                self._streak,
            )
        self._draw_strands(c, [leaf_line(r, t, b + w * 0.18) for r, t, w, b, _ in locks], whole)

    def _draw_strands(self, c: skia.Canvas, lines: list[skia.Path], mass: skia.Path) -> None:
        c.drawPath(shapes.inside([shapes.stroked(p, 1.5) for p in lines], mass), self._strand)

    def _draw_back(self, c: skia.Canvas, mass: skia.Path, strands: list[skia.Path]) -> None:
        shapes.outlined(c, mass, self._back_fill, self._pen)
        nape = mirrored([(0, 20), (self.w - 12, 20), (self.w - 10, 58), (self.w - 22, 96), (0, 104)], 0.9)
        c.drawPath(shapes.inside([nape], mass), self._back_deep)
        self._draw_strands(c, strands, mass)

    def _draw_front(self, c: skia.Canvas, locks: list[Lock], rng: random.Random) -> None:
        who, w = self.who, self.w
        if who.ahoge:
            d = -1 if who.flip else 1
            tuft = skia.Path()
            tuft.moveTo(-4, self.top + 6)
            tuft.cubicTo(-6 * d, self.top - 16, 14 * d, self.top - 26, 25 * d, self.top - 8)
            tuft.cubicTo(14 * d, self.top - 15, 7 * d, self.top - 10, 6, self.top + 6)
            tuft.close()
            shapes.outlined(c, tuft, shapes.fill(palette.lighten(who.hair, 0.1)), self._pen)
        shapes.outlined(c, self.front_path, self._front_fill, self._pen)
        gloss_y = self.top + 29
        ring: list[tuple[float, float]] = []
        n = 9
        for i in range(n + 1):
            u = -0.78 + 1.56 * i / n
            ring.append((u * w, gloss_y + 17 * u * u - (3 if i % 2 else 0)))
        for i in range(n, -1, -1):
            u = -0.78 + 1.56 * i / n
            thick = 10 * (1 - (u / 0.84) ** 2)
            ring.append((u * w, gloss_y + 17 * u * u + thick + (4.5 if i % 2 else -1)))
        c.drawPath(shapes.inside([smooth(ring, True, 0.55)], self.front_path), self._gloss)
        if self._streak:
            picked = [locks[i] for i in (1, 4) if i < len(locks)]
            c.drawPath(
                shapes.inside(
                    [shapes.spindle((r[0] * 0.7, self.top + 10), t, width * 0.5) for r, t, width, _, _ in picked],
                    self.front_path,
                ),
                self._streak,
            )
        lines = [leaf_line(r, t, b + width * rng.uniform(-0.4, 0.4), 0.12) for r, t, width, b, _ in locks]
        for u in (-0.93, 0.93):
            p = skia.Path()
            p.moveTo(u * w * 0.5, self.top + 8)
            p.quadTo(u * w * 1.0, self.top + 32, u * w * 0.98, 4)
            lines.append(p)
        self._draw_strands(c, lines, self.front_path)

    # --- shapes --------------------------------------------------------------------------

    def _cap(self) -> skia.Path:
        """Crown of the head down to the hairline."""
        w, top, low = self.w, self.top, 4.0
        line = -43.0 if self.who.fringe != "slick" else -40.0
        ctrl = low + (top - low) * 4 / 3
        p = skia.Path()
        p.moveTo(-w, low)
        p.cubicTo(-w - 4, ctrl, w + 4, ctrl, w, low)
        p.quadTo(w - 4, 14, w - 7, 20)
        p.quadTo(w - 9, 0, w - 14, -16)
        p.cubicTo(w * 0.6, line - 8, -w * 0.6, line - 8, -w + 14, -16)
        p.quadTo(-w + 9, 0, -w + 7, 20)
        p.quadTo(-w + 4, 14, -w, low)
        p.close()
        return p

    def _fringe(self, rng: random.Random) -> list[Lock]:
        w, style = self.who.face_w, self.who.fringe
        j = lambda a: rng.uniform(-a, a)
        locks: list[Lock] = []

        def fan(part: float, tips: list[tuple[float, float, float]], bend: float, fat: float = 0.62) -> None:
            for u, y, width in tips:
                x = u * w + j(2)
                root = (part * 0.55 + x * 0.5, -54 - 4 * (1 - u * u))
                locks.append((root, (x, y + j(2.5)), width, bend * (1 if x < part else -1), fat))

        if style == "blunt":
            for u in (-0.84, -0.56, -0.28, 0.0, 0.28, 0.56, 0.84):
                locks.append(((u * w * 0.9, -56), (u * w * 1.02 + j(1.5), -9 + 3 * u * u + j(1.5)), 27, j(1.5), 1.5))
        elif style == "swept":
            fan(
                0.42 * w,
                [
                    (-0.98, 2, 26),
                    (-0.68, -9, 27),
                    (-0.36, -13, 27),
                    (-0.04, -19, 26),
                    (0.3, -24, 22),
                    (0.72, -14, 22),
                    (0.97, 2, 20),
                ],
                7,
            )
        elif style == "parted":
            fan(
                0,
                [(-0.96, 4, 24), (-0.66, -9, 26), (-0.34, -18, 24), (0.34, -18, 24), (0.66, -9, 26), (0.96, 4, 24)],
                6,
            )
        elif style == "messy":
            for i in range(8):
                u = -0.95 + 1.9 * i / 7 + j(0.06)
                locks.append(
                    (
                        (u * w * 0.72 + j(5), -54),
                        (u * w + j(8), rng.uniform(-20, -6) + 8 * u * u),
                        rng.uniform(20, 27),
                        j(7),
                        0.55,
                    )
                )
        elif style == "side":
            fan(0.6 * w, [(-0.98, 8, 28), (-0.74, -4, 30), (-0.44, -13, 30), (-0.12, -23, 28), (0.9, -6, 22)], 11, 0.8)
        elif style == "curtain":
            fan(
                0,
                [(-0.93, 26, 28), (-0.78, 4, 26), (-0.52, -18, 24), (0.52, -18, 24), (0.78, 4, 26), (0.93, 26, 28)],
                12,
                0.75,
            )
        elif style == "pointed":
            fan(0, [(-0.94, 8, 24), (-0.62, -8, 24), (-0.3, -15, 20), (0.3, -15, 20), (0.62, -8, 24), (0.94, 8, 24)], 5)
            locks.append(((j(3), -56), (j(4), 7), 24, j(5), 0.6))
        elif style == "round":
            for u in (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9):
                locks.append(((u * w * 0.7, -55), (u * w * 0.98 + j(2), -13 + 12 * u * u), 25, -4 * u, 1.0))
        else:  # slick
            for u in (-0.92, 0.92):
                locks.append(((u * w * 0.9, -48), (u * w, 2), 16, 2 * u, 0.6))
            locks.append(((8, -60), (-14, -26), 8, 6, 0.6))
        if self.who.flip:
            locks = [((-r[0], r[1]), (-t[0], t[1]), width, -bend, fat) for r, t, width, bend, fat in locks]
        return locks

    def _sides(self, rng: random.Random) -> list[Lock]:
        w, style = self.who.face_w, self.who.side
        locks: list[Lock] = []
        for s in (-1, 1):
            # Roots hide under the crown; the bend carries the lock outside the eye.
            if style == "short":
                locks.append(((s * (w - 14), -38), (s * (w - 5), 30 + rng.uniform(-3, 3)), 15, -s * 8, 0.8))
            elif style == "chin":
                locks.append(((s * (w - 15), -40), (s * (w - 8), 62 + rng.uniform(-5, 5)), 16, -s * 13, 1.0))
                locks.append(((s * (w - 12), -34), (s * (w + 5), 46 + rng.uniform(-5, 5)), 14, -s * 8, 0.8))
            elif style == "long":
                locks.append(((s * (w - 15), -40), (s * (w - 2), 108 + rng.uniform(-8, 8)), 18, -s * 13, 1.05))
                locks.append(((s * (w - 12), -34), (s * (w + 10), 94 + rng.uniform(-8, 8)), 14, -s * 9, 0.8))
            elif style == "flare":
                locks.append(((s * (w - 14), -38), (s * (w + 11), 56 + rng.uniform(-5, 5)), 17, s * -3, 0.9))
                locks.append(((s * (w - 14), -38), (s * (w - 9), 40 + rng.uniform(-5, 5)), 14, -s * 10, 0.7))
        return locks

    def _back(self, rng: random.Random) -> tuple[skia.Path, list[skia.Path]]:
        w, top, style = self.w, self.top, self.who.back
        j = lambda a: rng.uniform(-a, a)
        crown = [(0, top + 9), (w * 0.5, top + 15), (w - 5, -40), (w + 2, -12)]
        parts: list[skia.Path] = []
        strands: list[skia.Path] = []

        def tips(y: float, spread: float, n: int, length: float, width: float, flare: float = 0.0) -> None:
            for i in range(n):
                u = -1 + 2 * i / (n - 1)
                root = (u * (spread - width * 0.4), y - length * 0.5)
                tip = (u * (spread + flare) + j(3), y + length * (1 - 0.2 * u * u) + j(5))
                parts.append(leaf(root, tip, width, -u * 5, 0.8))
                strands.append(leaf_line((root[0], root[1] - 30), tip, -u * 5))

        if style == "bob":
            parts.append(mirrored(crown + [(w + 10, 10), (w + 8, 52), (w - 8, 64), (0, 66)]))
            tips(48, w + 4, 7, 24, 32)
        elif style in ("long", "hime"):
            out = 12 if style == "long" else 7
            parts.append(mirrored(crown + [(w + 7, 20), (w + out, 80), (w + out + 2, 128), (0, 140)]))
            tips(112, w + out - 2, 7, 36, 32)
            for s in (-1, 1):
                strands += [
                    leaf_line((s * (w - 4), 0), (s * (w + 1), 130), s * 3),
                    leaf_line((s * (w + 4), 10), (s * (w + 7), 120), s * 2),
                ]
        elif style == "wavy":
            side = [(w + 9, -4), (w + 5, 22), (w + 17, 50), (w + 9, 78), (w + 20, 108), (w + 8, 138)]
            parts.append(mirrored(crown + side + [(0, 140)]))
            for s in (-1, 1):
                strands.append(smooth([(s * (x - 9), y) for x, y in side], False, 1.0))
        elif style == "curly":
            parts.append(mirrored(crown + [(w + 8, 10), (w + 6, 48), (0, 60)]))
            for i in range(15):
                a = math.pi * (i / 14) * 1.36 - 0.56
                r = rng.uniform(17, 23)
                x, y = (w + 4) * math.cos(a), -12 - (w + 2 + self.who.volume * 0.4) * math.sin(a)
                p = skia.Path()
                p.addCircle(x, y, r)
                parts.append(p)
                curl = skia.Path()
                curl.addArc(shapes.oval(x, y, r * 0.55, r * 0.55), rng.uniform(0, 360), 200)
                strands.append(curl)
        elif style == "short":
            parts.append(mirrored(crown + [(w + 4, 0), (w - 2, 30), (w * 0.5, 44), (0, 46)]))
            tips(26, w - 2, 6, 18, 26)
        elif style == "spiky":
            parts.append(mirrored(crown + [(w + 4, 0), (w - 2, 34), (0, 46)]))
            for i in range(9):
                a = math.pi * (i / 8) * 1.24 - 0.38 + j(0.09)
                cx, cy = math.cos(a), math.sin(a)
                lift = rng.uniform(14, 34) + (4 if i % 2 else -4)
                tip = ((w + lift) * cx + 12 * cx * abs(cy), -18 - (62 + lift * 0.75) * cy + 4)
                parts.append(leaf((w * 0.5 * cx, -14 - 36 * cy), tip, 46, 9 * (1 if cx < 0 else -1) + j(4), 0.66))
            tips(34, w - 4, 5, 20, 28)
        else:
            parts.append(mirrored(crown + [(w + 5, 0), (w, 36), (w * 0.5, 56), (0, 60)]))
        if style == "twintails":
            high = rng.random() < 0.6
            y0 = -44 if high else 10
            for s in (-1, 1):
                root = (s * (w - 2), y0)
                parts.append(
                    smooth(
                        [
                            (s * (w - 8), y0 - 8),
                            (s * (w + 17), y0 - 9),
                            (s * (w + 34), y0 + 28),
                            (s * (w + 37), y0 + 84),
                            (s * (w + 24), 132),
                            (s * (w + 9), 138),
                            (s * (w + 12), y0 + 74),
                            (s * (w + 2), y0 + 26),
                        ],
                        True,
                        1.0,
                    )
                )
                strands += [
                    leaf_line(root, (s * (w + 24), 132), -s * 13),
                    leaf_line((s * (w + 6), y0), (s * (w + 29), 118), -s * 13),
                ]
        elif style == "ponytail":
            s = -1 if self.who.flip else 1
            parts.append(
                smooth(
                    [
                        (s * 14, top + 8),
                        (s * 46, top - 14),
                        (s * (w + 28), -50),
                        (s * (w + 36), 6),
                        (s * (w + 28), 66),
                        (s * (w + 10), 104),
                        (s * (w + 14), 50),
                        (s * (w + 6), 0),
                        (s * 40, -50),
                    ],
                    True,
                    1.0,
                )
            )
            strands += [
                leaf_line((s * 30, top), (s * (w + 14), 96), -s * 44, 0.3),
                leaf_line((s * 44, top + 2), (s * (w + 20), 80), -s * 36, 0.3),
            ]
        elif style == "buns":
            for s in (-1, 1):
                x, y, r = s * (w * 0.74), top + 13, 25
                p = skia.Path()
                p.addCircle(x, y, r)
                parts.append(p)
                for k in (0.72, 0.4):
                    curl = skia.Path()
                    curl.addArc(shapes.oval(x, y, r * k, r * k), 150 + 40 * s, 250)
                    strands.append(curl)
        elif style == "braids":
            for s in (-1, 1):
                for k in range(6):
                    x, y = s * (w + 2 + 2.5 * k), 38 + 18 * k
                    p = skia.Path()
                    p.addOval(shapes.oval(x, y, 15 - k * 0.7, 13))
                    parts.append(p)
                    q = skia.Path()
                    q.moveTo(x - 13, y + 6)
                    q.quadTo(x, y + 1, x + 3 * s, y + 12)
                    strands.append(q)
        return shapes.union(parts), strands
