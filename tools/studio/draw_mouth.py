"""The mouth: lips, teeth and tongue. Mouth space: origin between the lips at rest."""

from __future__ import annotations

import skia

from . import palette, shapes
from .identity import Identity

#: where the mouth lies in feature space
MOUTH_Y = 41.0


class Mouth:
    """Draws the mouth of one identity from its pose."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        ink = palette.mix(palette.ink(palette.skin_shadow(who.skin), 0.9), (0.42, 0.12, 0.16), 0.3)
        self._ink = shapes.line(ink, 2.5)
        self._ink_low = shapes.line(ink, 1.7, 0.9)
        deep = palette.mix((0.36, 0.07, 0.12), palette.multiply(who.skin, (0.5, 0.2, 0.25)), 0.25)
        self._inside = shapes.fill(deep)
        self._teeth = shapes.fill((0.99, 0.98, 0.96))
        self._gap = shapes.line((0.62, 0.48, 0.52), 1.0, 0.8)
        self._tongue = shapes.fill((0.93, 0.49, 0.52))
        self._tongue_lit = shapes.fill((0.98, 0.64, 0.65), 0.8)
        lip = palette.mix(palette.multiply(who.skin, (0.93, 0.62, 0.62)), who.lip_colour, 0.25 + 0.55 * who.lip)
        # Lips must be found inside a beard.
        self._lip = shapes.line(lip, 5.0, 0.9 if who.beard == "full" else 0.28 + 0.6 * who.lip)
        self._under = shapes.line(palette.skin_shadow(who.skin, 1.5), 2.2, 0.5)
        self._shine = shapes.line((1, 1, 1), 1.4, 0.30 + 0.35 * who.lip)

    def draw(
        self, c: skia.Canvas, open_: float, wide: float, round_: float, teeth: float, tongue: float, smile: float
    ) -> None:
        """Draw in mouth space; arguments are the pose fields of the same names."""
        w = self.who.mouth_w * (1 + 0.2 * wide - 0.44 * round_ - 0.06 * open_)
        up = -3.4 * open_ - 2.4 * round_ * min(1.0, open_ * 3)
        down = 20.5 * open_ + 1.5 * round_ * min(1.0, open_ * 3)
        curve = smile * (1 - 0.6 * round_)
        corner = -5.6 * curve + 0.24 * down
        middle = 3.0 * curve
        full = 0.55 + 0.36 * round_ + 0.08 * max(0.0, -wide)
        # A cubic with equal control heights peaks at 3/4 of them: scale so the lips meet the targets.
        top = corner + (middle + up - corner) * 4 / 3
        low = corner + (middle + down - corner) * 4 / 3
        upper = skia.Path()
        upper.moveTo(-w, corner)
        upper.cubicTo(-w * full, top, w * full, top, w, corner)
        lower = skia.Path()
        lower.moveTo(w, corner)
        fl = min(1.0, full + 0.16 * open_)
        lower.cubicTo(w * fl, low, -w * fl, low, -w, corner)
        whole = skia.Path(upper)
        whole.cubicTo(w * fl, low, -w * fl, low, -w, corner)
        whole.close()

        c.drawPath(whole, self._lip)
        c.drawPath(whole, self._inside)
        c.save()
        c.clipPath(whole, True)
        height = down - up
        lift = tongue * height * 0.55
        c.drawOval(
            shapes.oval(0, middle + down + 3.2 - lift - 1.5 * open_, w * (0.66 - 0.12 * round_), 4.2 + 5.0 * open_),
            self._tongue,
        )
        c.drawOval(
            shapes.oval(-w * 0.1, middle + down + 3.0 - lift - 1.5 * open_, w * 0.3, 1.8 + 2.6 * open_),
            self._tongue_lit,
        )
        band = 2 * teeth * max(3.4 + 2.2 * open_, 0.0)
        if band > 0.05:
            self._teeth.setStyle(skia.Paint.kStroke_Style)
            self._teeth.setStrokeWidth(band)
            c.drawPath(upper, self._teeth)
            if teeth > 0.7:
                self._teeth.setStrokeWidth((teeth - 0.7) * 2 * (3.0 + 3.0 * open_))
                c.drawPath(lower, self._teeth)
                edge = skia.Path()
                edge.moveTo(-w, corner)
                mid = corner + (middle + up + height * 0.5 - corner) * 4 / 3
                edge.cubicTo(-w * full, mid, w * full, mid, w, corner)
                self._gap.setAlphaf((teeth - 0.7) * 2.2)
                c.drawPath(edge, self._gap)
        if self.who.fang:
            fang = skia.Path()
            x, y = w * 0.52, middle + up * 0.72 + corner * 0.2 - 0.6
            fang.moveTo(x - 2.6, y - 2)
            fang.lineTo(x + 2.6, y - 2)
            fang.lineTo(x + 0.3, y + min(6.0, 1.2 + 7 * open_))
            fang.close()
            self._teeth.setStyle(skia.Paint.kFill_Style)
            c.drawPath(fang, self._teeth)
        c.restore()
        c.drawPath(lower, self._ink_low)
        c.drawPath(upper, self._ink)
        chin = skia.Path()
        y = middle + down + 5.4
        chin.moveTo(-w * 0.3, y)
        chin.quadTo(0, y + 1.4, w * 0.3, y)
        c.drawPath(chin, self._under)
        shine = skia.Path()
        shine.moveTo(-w * 0.16, middle + down + 2.6)
        shine.lineTo(w * 0.1, middle + down + 2.7)
        c.drawPath(shine, self._shine)

    def box(self) -> tuple[float, float, float, float]:
        """Feature-space bounds of the mouth at its widest and at its most open."""
        w = self.who.mouth_w * 1.2 + 4
        return -w, MOUTH_Y - 11, w, MOUTH_Y + 32
