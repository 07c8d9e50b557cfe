"""Eyes and brows. Eye space: origin at the eye's centre, +x towards the temple."""

from __future__ import annotations

import skia

from . import palette, shapes
from .identity import Identity

_WHITE = (1.0, 1.0, 1.0)


def _lerp(a: float, b: float, t: float) -> float:
    return a + (b - a) * t


class Eyes:
    """Draws both eyes and brows of one identity."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        self.iris_rx = who.eye_w * 0.71
        self.iris_ry = min(who.eye_h * 0.96, who.eye_w * 1.08)
        self._iris = {-1: self._record_iris(who.iris_l), 1: self._record_iris(who.iris_r)}
        shade = palette.mix(palette.skin_shadow(who.skin, 0.6), (0.72, 0.72, 0.86), 0.55)
        self._white = shapes.fill((0.985, 0.985, 1.0))
        self._lid_shadow = shapes.line(palette.mix(shade, (0.25, 0.18, 0.35), 0.5), 7.5, 0.42)
        self._lash = shapes.fill(who.lash_colour)
        soft = palette.mix(palette.ink(who.skin), who.lash_colour, 0.35)
        self._lower = shapes.line(soft, 1.5, 0.75)
        self._crease = shapes.line(palette.ink(palette.skin_shadow(who.skin), 0.8), 1.3, 0.62)
        self._brow = shapes.fill(palette.mix(palette.ink(who.hair), who.hair, 0.22))
        self._brow_veil = shapes.fill(palette.mix(palette.ink(who.hair), who.hair, 0.25), 0.7)

    def _record_iris(self, colour: palette.Colour) -> skia.Picture:
        rx, ry, who = self.iris_rx, self.iris_ry, self.who
        dark = palette.mix(palette.multiply(colour, (0.36, 0.3, 0.42)), (0.1, 0.06, 0.16), 0.25)
        bright = palette.lighten(colour, 0.42)

        def draw(c: skia.Canvas) -> None:
            body = skia.Path()
            body.addOval(shapes.oval(0, 0, rx, ry))
            c.drawPath(
                body,
                shapes.vertical(
                    -ry,
                    ry,
                    [(0, dark, 1), (0.38, palette.mix(dark, colour, 0.7), 1), (0.66, colour, 1), (1, bright, 1)],
                ),
            )
            glow = skia.Path.Oval(shapes.oval(0, ry * 0.86, rx * 0.74, ry * 0.42))
            c.drawPath(shapes.inside([glow], body), shapes.fill(palette.lighten(colour, 0.7), 0.5))
            pupil = palette.mix(dark, (0.05, 0.03, 0.08), 0.6)
            if who.pupil == "slit":
                c.drawOval(shapes.oval(0, 0, rx * 0.2, ry * 0.64), shapes.fill(pupil))
            else:
                c.drawOval(shapes.oval(0, -ry * 0.02, rx * 0.42, ry * 0.44), shapes.fill(pupil))
                if who.pupil == "ring":
                    c.drawOval(shapes.oval(0, 0, rx * 0.68, ry * 0.7), shapes.line(bright, 1.2, 0.55))
            c.drawOval(shapes.oval(0, 0, rx - 0.8, ry - 0.8), shapes.line(dark, 1.8, 0.9))
            c.save()
            c.rotate(-18)
            c.drawOval(shapes.oval(-rx * 0.28, -ry * 0.5, rx * 0.36, ry * 0.25), shapes.fill(_WHITE, 0.97))
            c.restore()
            c.drawCircle(rx * 0.4, ry * 0.42, rx * 0.17, shapes.fill(_WHITE, 0.9))

        return shapes.record(draw)

    def _lids(self, closed: float, squint: float) -> tuple[tuple[float, float], ...]:
        """Corners (x, y) inner and outer, then control heights (inner, outer) of upper and lower lid."""
        who = self.who
        w, h = who.eye_w, who.eye_h
        wide, up, o = max(0.0, -squint), max(0.0, squint), 1 - closed
        top = -h * (1.33 + 0.14 * wide) * (1 - 0.16 * up)
        # A shut eye curves down like lashes at rest; with raised cheeks it arches up.
        shut = _lerp(h * 0.86, -h * 0.5, up * up)
        drop = h * 0.22 * closed * (1 - up)
        inner = (-w, h * 0.26 + drop * 0.6)
        outer = (w, h * 0.06 - who.eye_tilt + drop)
        upper = (_lerp(shut * 0.9, top * 0.98, o), _lerp(shut, top * 1.02 - who.eye_tilt * 0.4, o))
        low = h * _lerp(1.22, 1.3, who.eye_round) * (1 - 0.62 * up)
        lower = (_lerp(upper[0], low * 0.92, o), _lerp(upper[1], low, o))
        return inner, outer, upper, lower

    def _eye(self, c: skia.Canvas, side: int, closed: float, gx: float, gy: float, squint: float) -> None:
        who = self.who
        w, h = who.eye_w, who.eye_h
        (ix, iy), (ox, oy), (u0, u1), (l0, l1) = self._lids(closed, squint)
        full = 0.3 + 0.5 * who.eye_round
        a, b = -w * (0.5 + 0.28 * full), w * (0.5 + 0.42 * full)
        white = skia.Path()
        white.moveTo(ix, iy)
        white.cubicTo(a, u0, b, u1, ox, oy)
        white.cubicTo(w * 0.82, l1, -w * 0.62, l0, ix, iy)
        white.close()
        open_ = 1 - closed
        if open_ > 0.02:
            c.drawPath(white, self._white)
            c.save()
            c.clipPath(white, True)
            c.save()
            # The iris is lit from the left in both eyes: undo the mirroring of eye space.
            c.translate(-w * 0.06 + side * gx * w * 0.27, h * 0.04 + gy * h * 0.19)
            shrink = 1 - 0.1 * max(0.0, -squint)
            c.scale(side * shrink, shrink)
            c.drawPicture(self._iris[side])
            c.restore()
            lid = skia.Path()
            lid.moveTo(ix, iy)
            lid.cubicTo(a, u0, b, u1, ox, oy)
            c.drawPath(lid, self._lid_shadow)
            c.restore()
        t = who.lashes * (0.72 + 0.28 * open_)
        flick = 2.6 + 0.5 * who.lashes
        lower = skia.Path()
        lower.moveTo(w * 0.98, oy + 0.5)
        lower.cubicTo(w * 0.82, l1, -w * 0.1, (l0 + l1) / 2, -w * 0.45, l0 * 0.66 + iy * 0.2)
        c.drawPath(lower, self._lower)
        lash = skia.Path()
        lash.moveTo(ix - 0.8, iy + 0.6)
        lash.cubicTo(a, u0 - t * 0.6, b, u1 - t * 1.75, ox + flick, oy - t * 0.55 - flick * 0.35)
        lash.quadTo(ox + 1.0, oy + 0.4, ox - 0.6, oy + 1.8)
        lash.cubicTo(b - 0.5, u1 + t * 0.3, a + 1, u0 + t * 0.45, ix - 0.8, iy + 0.6)
        lash.close()
        c.drawPath(lash, self._lash)
        if who.gender != "m" and who.lashes > 3.4:
            k = skia.Path()
            k.moveTo(ox - 2.5, oy - 3.2 * open_ - t * 0.3)
            k.quadTo(ox + 2, oy - 5 * open_ - t * 0.4, ox + flick + 2, oy - 7.5 * open_ + 2.0 * closed - t * 0.3)
            k.quadTo(ox + 2.5, oy - 2 * open_ - 0.2, ox - 1, oy + 0.2)
            k.close()
            c.drawPath(k, self._lash)
        rise = 5.0 + 1.5 * open_
        fold = skia.Path()
        fold.moveTo(-w * 0.62, _lerp(iy, u0, 0.56) - rise * 0.8)
        fold.quadTo(w * 0.1, _lerp(iy, (u0 + u1) / 2, 0.9) - rise, w * 0.9, _lerp(oy, u1, 0.4) - rise * 0.9)
        c.drawPath(fold, self._crease)

    def _brow_path(self, raise_: float, furrow: float) -> skia.Path:
        who = self.who
        y = -who.eye_h * 1.05 - 10.5 - 5.5 * raise_ + 2.0 * max(0.0, furrow)
        xi, xo = -12.5 - 2.5 * max(0.0, furrow), 15.5
        yi = y + 1.0 + 5.5 * furrow
        yo = y + 2.2 - 2.4 * furrow - 0.5 * who.eye_tilt
        mid = (yi + yo) / 2 - who.brow_arch - 2.0 * raise_
        t = who.brow_w
        path = skia.Path()
        path.moveTo(xi, yi - t * 0.45)
        path.quadTo(2, mid - t * 0.8, xo, yo)
        path.quadTo(2, mid + t * 0.9, xi + 0.8, yi + t * 0.65)
        path.quadTo(xi - 1.2, yi + t * 0.2, xi, yi - t * 0.45)
        path.close()
        return path

    def draw(
        self, c: skia.Canvas, closed: tuple[float, float], gaze: tuple[float, float], squint: float, yaw: float
    ) -> None:
        """Both eyes in feature space; closed = (left, right) of the picture."""
        for side in (-1, 1):
            c.save()
            c.translate(side * self.who.eye_x, 2)
            c.scale(side * (1 - 0.11 * side * yaw), 1)
            self._eye(c, side, closed[side > 0], gaze[0], gaze[1], squint)
            c.restore()

    def brows(self, c: skia.Canvas, raise_: float, furrow: float, yaw: float, veil: bool) -> None:
        """Both brows; `veil` paints them faintly, for showing through the fringe."""
        path = self._brow_path(raise_, furrow)
        for side in (-1, 1):
            c.save()
            c.translate(side * self.who.eye_x, 2)
            c.scale(side * (1 - 0.11 * side * yaw), 1)
            c.drawPath(path, self._brow_veil if veil else self._brow)
            c.restore()

    def box(self, side: int) -> tuple[float, float, float, float]:
        """Feature-space bounds of an eye at its widest, lashes included."""
        who = self.who
        x, w, h = side * self.who.eye_x, who.eye_w + 7.5, who.eye_h
        return x - w, 2 - h * 1.15 - 8, x + w, 2 + h * 1.05 + 2
