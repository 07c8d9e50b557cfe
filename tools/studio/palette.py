"""Colours as (r, g, b) floats in 0..1, and the mixing rules that keep shading harmonious."""

from __future__ import annotations

import colorsys

import skia

Colour = tuple[float, float, float]


def hexa(code: str) -> Colour:
    """ "f4c2a1" -> (0.957, 0.761, 0.631)."""
    return tuple(int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """a at t = 0, b at t = 1."""
    return tuple(x + (y - x) * t for x, y in zip(a, b))


def multiply(a: Colour, b: Colour) -> Colour:
    return tuple(x * y for x, y in zip(a, b))


def lighten(a: Colour, t: float) -> Colour:
    return mix(a, (1.0, 0.99, 0.97), t)


def shadow(a: Colour, t: float = 1.0) -> Colour:
    """Cel shade: darker and a little towards violet."""
    return multiply(a, mix((1, 1, 1), (0.70, 0.62, 0.78), t))


def skin_shadow(a: Colour, t: float = 1.0) -> Colour:
    """Shade of skin: warmer than cloth's."""
    return multiply(a, mix((1, 1, 1), (0.90, 0.72, 0.70), t))


def ink(a: Colour, t: float = 1.0) -> Colour:
    """Outline colour that belongs to a fill: dark, tinted, never black."""
    dark = multiply(a, (0.40, 0.30, 0.40))
    return mix(mix(a, dark, t), (0.13, 0.08, 0.14), 0.35 * t)


def jitter(rng, a: Colour, hue: float = 0.02, sat: float = 0.08, val: float = 0.06) -> Colour:
    """A neighbour of the colour."""
    h, s, v = colorsys.rgb_to_hsv(*a)
    s = min(1.0, max(0.0, s + rng.uniform(-sat, sat)))
    v = min(1.0, max(0.08, v + rng.uniform(-val, val)))
    return colorsys.hsv_to_rgb((h + rng.uniform(-hue, hue)) % 1, s, v)


def luma(a: Colour) -> float:
    return 0.3 * a[0] + 0.59 * a[1] + 0.11 * a[2]


def argb(a: Colour, alpha: float = 1.0) -> int:
    """The colour packed for skia, with red and blue exchanged.

    Skia's fast CPU blitters only write its native BGRA order. Drawing exchanged colours into a
    BGRA surface leaves RGBA bytes in memory, with no conversion per frame.
    """
    r, g, b = (int(min(1.0, max(0.0, x)) * 255 + 0.5) for x in a)
    return skia.Color(b, g, r, int(alpha * 255 + 0.5))


HAIR = tuple(
    map(
        hexa,
        (
            "2b2a3a",
            "3a2a2a",
            "4a3329",
            "6b4630",
            "8a5a3c",
            "b07a4a",
            "d9a95f",
            "f0cf86",
            "f7e6bd",
            "f1f0f4",
            "c9ccd8",
            "9aa0b4",
            "a33b3b",
            "d9583f",
            "f08a4b",
            "e8799a",
            "f7a8c0",
            "c86fb0",
            "9b7bd0",
            "6b62c4",
            "4a6fc2",
            "5fa8e0",
            "8fd0ee",
            "4fb8b0",
            "7fd4b0",
            "5f9e62",
            "a9cf6a",
            "33415f",
            "54365a",
            "7a2f45",
        ),
    )
)
SKIN = tuple(
    map(
        hexa,
        (
            "fff0e6",
            "ffe8da",
            "fde0cb",
            "f8d3b8",
            "f2c6a4",
            "e6b18a",
            "d39a70",
            "bb8058",
            "9b6544",
            "7d4e35",
            "623b2a",
        ),
    )
)
FANTASY_SKIN = tuple(map(hexa, ("d8dcf4", "cfe8d8", "e2d2f0", "f6d0d8", "bcd4ee")))
IRIS = tuple(
    map(
        hexa,
        (
            "7a4a2a",
            "4a2f22",
            "a8662c",
            "d8962e",
            "e8c04a",
            "4f9a4a",
            "3fb88a",
            "3aa6b8",
            "3f86d8",
            "4a5fd0",
            "7a5ad8",
            "a85ad0",
            "d85aa8",
            "d84a5a",
            "b03030",
            "8a96a8",
            "5f7fa0",
        ),
    )
)
CLOTH = tuple(
    map(
        hexa,
        (
            "f4f1ee",
            "2f3242",
            "3f4f7a",
            "5f86c8",
            "8fc0e8",
            "d8556a",
            "f08aa0",
            "f7c4ce",
            "e8a04a",
            "f4d27a",
            "6fae7a",
            "3f7f6f",
            "a8d8c0",
            "8a6fc0",
            "c4a8e0",
            "7a5238",
            "b89878",
            "8a2f42",
            "5a5f6a",
            "a8aeb8",
            "222530",
        ),
    )
)
