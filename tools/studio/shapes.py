"""Path building blocks: leaves, mirrored outlines, unions, and short names for paints."""

from __future__ import annotations

import math
from functools import reduce
from typing import Callable, Sequence

import skia

from .palette import Colour, argb

Point = tuple[float, float]


def fill(colour: Colour, alpha: float = 1.0) -> skia.Paint:
    return skia.Paint(AntiAlias=True, Color=argb(colour, alpha))


def shaded(shader: skia.Shader) -> skia.Paint:
    return skia.Paint(AntiAlias=True, Shader=shader)


def line(colour: Colour, width: float, alpha: float = 1.0) -> skia.Paint:
    return skia.Paint(
        AntiAlias=True,
        Color=argb(colour, alpha),
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


def vertical(y0: float, y1: float, stops: Sequence[tuple[float, Colour, float]]) -> skia.Paint:
    """Linear gradient downwards; stops are (position, colour, alpha)."""
    return shaded(
        skia.GradientShader.MakeLinear([(0, y0), (0, y1)], [argb(c, a) for _, c, a in stops], [p for p, _, _ in stops])
    )


def radial(x: float, y: float, r: float, stops: Sequence[tuple[float, Colour, float]]) -> skia.Paint:
    return shaded(
        skia.GradientShader.MakeRadial((x, y), r, [argb(c, a) for _, c, a in stops], [p for p, _, _ in stops])
    )


def oval(x: float, y: float, rx: float, ry: float) -> skia.Rect:
    return skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry)


def polygon(points: Sequence[Point]) -> skia.Path:
    path = skia.Path()
    path.addPoly([skia.Point(*p) for p in points], True)
    return path


def smooth(points: Sequence[Point], closed: bool = True, tension: float = 0.5) -> skia.Path:
    """Catmull-Rom curve through the points."""
    path, n = skia.Path(), len(points)
    path.moveTo(*points[0])
    at = (lambda i: points[i % n]) if closed else (lambda i: points[min(max(i, 0), n - 1)])
    k = tension / 3
    for i in range(n if closed else n - 1):
        a, b, c, d = at(i - 1), at(i), at(i + 1), at(i + 2)
        path.cubicTo(
            b[0] + (c[0] - a[0]) * k, b[1] + (c[1] - a[1]) * k, c[0] - (d[0] - b[0]) * k, c[1] - (d[1] - b[1]) * k, *c
        )
    if closed:
        path.close()
    return path


def mirrored(right: Sequence[Point], tension: float = 1.0) -> skia.Path:
    """Closed smooth outline from its right half, listed from the top down."""
    left = [(-x, y) for x, y in reversed(right) if abs(x) > 0.01]
    return smooth(list(right) + left, True, tension)


def leaf(root: Point, tip: Point, width: float, bend: float = 0.0, fat: float = 0.55) -> skia.Path:
    """A lock of hair: wide at the root, curved by `bend` px to its left, pointed at the tip."""
    (x0, y0), (x1, y1) = root, tip
    dx, dy = x1 - x0, y1 - y0
    n = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / n, dx / n
    h = width / 2
    path = skia.Path()
    path.moveTo(x0 + nx * h, y0 + ny * h)
    path.cubicTo(
        x0 + dx * 0.4 + nx * (h + bend),
        y0 + dy * 0.4 + ny * (h + bend),
        x0 + dx * 0.75 + nx * (h * fat + bend * 0.7),
        y0 + dy * 0.75 + ny * (h * fat + bend * 0.7),
        x1,
        y1,
    )
    path.cubicTo(
        x0 + dx * 0.75 + nx * (-h * fat + bend * 0.7),
        y0 + dy * 0.75 + ny * (-h * fat + bend * 0.7),
        x0 + dx * 0.4 + nx * (-h + bend),
        y0 + dy * 0.4 + ny * (-h + bend),
        x0 - nx * h,
        y0 - ny * h,
    )
    path.close()
    return path


def spindle(a: Point, b: Point, width: float) -> skia.Path:
    """A straight sliver pointed at both ends."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    n = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / n * width, dx / n * width
    mx, my = (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
    path = skia.Path()
    path.moveTo(*a)
    path.quadTo(mx + nx, my + ny, *b)
    path.quadTo(mx - nx, my - ny, *a)
    path.close()
    return path


def leaf_line(root: Point, tip: Point, bend: float = 0.0, start: float = 0.2) -> skia.Path:
    """The midrib of a leaf, for strand lines."""
    (x0, y0), (x1, y1) = root, tip
    dx, dy = x1 - x0, y1 - y0
    n = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / n * bend, dx / n * bend
    path = skia.Path()
    path.moveTo(x0 + dx * start + nx * start, y0 + dy * start + ny * start)
    path.quadTo(x0 + dx * 0.6 + nx, y0 + dy * 0.6 + ny, x0 + dx * 0.92 + nx * 0.3, y0 + dy * 0.92 + ny * 0.3)
    return path


def union(paths: Sequence[skia.Path]) -> skia.Path:
    """One outline around all the paths."""
    return reduce(lambda a, b: skia.Op(a, b, skia.PathOp.kUnion_PathOp), paths)


def moved(path: skia.Path, dx: float, dy: float) -> skia.Path:
    out = skia.Path(path)
    out.offset(dx, dy)
    return out


def flipped(path: skia.Path) -> skia.Path:
    """The path mirrored left to right."""
    out = skia.Path(path)
    out.transform(skia.Matrix.Scale(-1, 1))
    return out


def record(draw: Callable[[skia.Canvas], None]) -> skia.Picture:
    """The drawing as a picture: replayed without Python, sharp under any matrix."""
    recorder = skia.PictureRecorder()
    draw(recorder.beginRecording(skia.Rect.MakeLTRB(-200, -200, 200, 300)))
    return recorder.finishRecordingAsPicture()


def stroked(path: skia.Path, width: float) -> skia.Path:
    """The area a round pen of this width covers."""
    out = skia.Path()
    line((0, 0, 0), width).getFillPath(path, out)
    return out


def inside(paths: Sequence[skia.Path], mass: skia.Path) -> skia.Path:
    """The parts of the paths that lie in `mass`, as one path: cheaper than clipping each frame."""
    out = skia.Path()
    for p in paths:
        out.addPath(skia.Op(p, mass, skia.PathOp.kIntersect_PathOp))
    return out


def outlined(canvas: skia.Canvas, path: skia.Path, paint: skia.Paint, pen: skia.Paint) -> None:
    """Outline under fill: the line's outer half shows, so neighbours merge cleanly."""
    canvas.drawPath(path, pen)
    canvas.drawPath(path, paint)
