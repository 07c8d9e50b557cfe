"""A report as one HTML page that needs nothing else: charts as inline SVG, pictures and sound as data URIs."""
from __future__ import annotations

import base64
import io
import math
import wave
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em; color: #1c1e26 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .8em; border-bottom: 1px solid #ddd }
th { text-align: left; background: #f3f4f8 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
figure { margin: 1.2em 0 } figcaption { color: #555; font-size: 90% } img { max-width: 100% }
svg { background: #fafbfd } code, pre { background: #f3f4f8; padding: .1em .3em } pre { overflow-x: auto }
"""
_COLOURS = ("#2456c8", "#d05a1e", "#2c8f4e", "#8a3fb5", "#b0263e", "#5b6475")
Cell = str | int | float | None


class Page:
    """Builds the page from top to bottom."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> None:
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Numbers are set right and rounded to four digits; None is a dash."""
        head = "".join(f"<th>{escape(h)}</th>" for h in header)
        body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
        self._parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def chart(self, series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, caption: str = "",
              zero: bool = True) -> None:
        """Lines through points (x, y), one a name; ``zero``: the y axis begins at 0."""
        self._figure(line_chart(series, x=x, y=y, zero=zero), caption)

    def picture(self, image: Any, caption: str = "") -> None:
        """A PIL image, or a PNG or JPEG file."""
        if isinstance(image, Path):
            data, kind = image.read_bytes(), "jpeg" if image.suffix in (".jpg", ".jpeg") else "png"
        else:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            data, kind = buffer.getvalue(), "png"
        self._figure(f'<img alt="{escape(caption, quote=True)}" src="{_data_uri(f"image/{kind}", data)}">', caption)

    def sound(self, samples: np.ndarray | Path, caption: str = "") -> None:
        """float (n,) in [-1, 1] at 16 kHz, or a WAV file."""
        data = samples.read_bytes() if isinstance(samples, Path) else wav_bytes(samples)
        self._figure(f'<audio controls src="{_data_uri("audio/wav", data)}"></audio>', caption)

    def html(self) -> str:
        return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
                f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(self._parts) + "\n</body></html>\n")

    def save(self, path: Path) -> None:
        path.write_text(self.html(), encoding="utf-8")

    def _figure(self, content: str, caption: str) -> None:
        self._parts.append(f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>")


def wav_bytes(samples: np.ndarray, rate: int = 16_000) -> bytes:
    """A mono 16-bit WAV file of float (n,) in [-1, 1]."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, zero: bool = True,
               width: int = 760, height: int = 300) -> str:
    """An SVG element; points that are not finite are left out."""
    series = {name: [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b)]
              for name, points in series.items()}
    every = [point for points in series.values() for point in points] or [(0.0, 0.0)]
    x_ticks = ticks(min(p[0] for p in every), max(p[0] for p in every))
    low = min(p[1] for p in every)
    y_ticks = ticks(min(0.0, low) if zero else low, max(p[1] for p in every))
    left, right, top, bottom = 70, width - 15, 15 + 18 * math.ceil(len(series) / 3), height - 45
    place_x, place_y = _scale(x_ticks, left, right), _scale(y_ticks, bottom, top)
    out = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-size="12" fill="#333">']
    for value in y_ticks:
        at = place_y(value)
        out.append(f'<line x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="#dde0e8"/>'
                   f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in x_ticks:
        out.append(f'<text x="{place_x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value:.4g}</text>')
    out.append(f'<text x="{(left + right) / 2}" y="{height - 8}" text-anchor="middle">{escape(x)}</text>')
    turned = f"translate(14 {(top + bottom) / 2}) rotate(-90)"
    out.append(f'<text transform="{turned}" text-anchor="middle">{escape(y)}</text>')
    for i, (name, points) in enumerate(series.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        path = " ".join(f"{place_x(a):.1f},{place_y(b):.1f}" for a, b in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if len(points) <= 40:
            out += [f'<circle cx="{place_x(a):.1f}" cy="{place_y(b):.1f}" r="3" fill="{colour}"/>' for a, b in points]
        at_x, at_y = left + 230 * (i % 3), 14 + 18 * (i // 3)
        out.append(f'<rect x="{at_x}" y="{at_y - 9}" width="14" height="4" fill="{colour}"/>'
                   + f'<text x="{at_x + 19}" y="{at_y}">{escape(name)}</text>')
    return "".join(out) + "</svg>"


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``, at least two."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _scale(marks: Sequence[float], begin: float, end: float):
    low, high = marks[0], marks[-1]
    return lambda value: begin + (value - low) / (high - low) * (end - begin)


def _cell(value: Cell) -> str:
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return '<td class="n">–</td>'
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class="n">{value:.4g}</td>' if isinstance(value, float) else f'<td class="n">{value}</td>'


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
