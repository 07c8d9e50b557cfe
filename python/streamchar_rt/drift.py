"""How far the character's picture has drifted from its reference picture: a cheap meter, without weights.

A stream that is generated from its own history can drift: colours fade or shift, outlines and texture wash out,
another face appears. Speaking, blinking and turning the head must not count. So a picture is looked at in two ways:

- **colour**: the picture over mid grey as 16 x 16 cells of mean colour, averaged in linear light (what one sees from
  afar) and then taken to OKLab (B. Ottosson, 2020), where equal distances look about equally different. Mouth and
  eyes are small in a cell, and frames of a chunk are averaged. Each cell of either picture is compared with the
  other's cells around its place, and the nearest colour counts: a head that turns or nods by a cell is no other
  colour, but a tint has nowhere to hide, nor have other hair or clothes.
- **structure**: contrast between neighbouring pixels in 4 x 4 regions, as logarithms of ratios. A picture that blurs
  loses it everywhere; where a head moves, its lines move within their region.

Both are averaged over where the character is, so that the empty background counts for nothing. ``python -m
tools.evaluate.drift`` says how well this tells drift from performance. Everything is sums over a fixed lattice of
pixels, so equal pictures give equal numbers.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Distance that a chunk must pass for a ``drift`` event, and the one it must fall below before there is another. Half
#: as much again as the highest of true performances (0.03), and half of the lowest of other characters (0.08).
BOUND, SETTLED = 0.045, 0.038
SMALLEST = 32  # px: the side of a picture that can be looked at

_CELLS = 16  # a side, of colour
_REGIONS = 4  # a side, of structure
_SAMPLES = 4  # pixels along a cell's side that are looked at
_FRAMES = 2  # of a chunk
_GREY = 128 / 255  # what shows through, in sRGB
_FLOOR = 0.004  # contrast that counts as none
_STRUCTURE_WEIGHT = 0.1  # a blur by 2 px weighs as much as a tint by a third

_LINEAR = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.arange(256) / 255],
                   np.float32)
_EDGES = np.clip(np.arange(-1, _CELLS + 1), 0, _CELLS - 1)  # cells with a margin that repeats the outermost

# Linear sRGB to cone responses, and their cube roots to OKLab.
_CONES = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                   [0.0883024619, 0.2817188376, 0.6299787005]], np.float32).T
_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                 [0.0259040371, 0.7827717662, -0.8086757660]], np.float32).T


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a chunk's picture is from the character's reference picture; 0: not at all.

    Attributes:
        distance: both together: the root of ``colour`` squared plus ``structure / 10`` squared. Performances of the
            same character have 0.01 to 0.03, of another one 0.08 and more.
        colour: mean distance in OKLab of the colours that the character has; 0.02 is just noticeable.
        structure: mean absolute logarithm of the ratio of local contrast; 0.7 is half or twice the contrast.
    """

    distance: float
    colour: float
    structure: float


@dataclass(frozen=True, slots=True)
class Look:
    """What the meter sees of one picture, or of several as their mean."""

    colour: npt.NDArray[np.float32]  # (16, 16, 3) OKLab over grey
    cover: npt.NDArray[np.float32]  # (16, 16) mean alpha, 0..1
    contrast: npt.NDArray[np.float32]  # (4, 4)
    region_cover: npt.NDArray[np.float32]  # (4, 4)


def look_at(pictures: npt.NDArray[np.uint8]) -> Look:
    """The look of pictures (T, height, width, 4), straight alpha, 32 px a side or more; of many frames two are used.

    Raises:
        ValueError: for another shape or type.
    """
    fits = pictures.ndim == 4 and pictures.shape[3] == 4 and min(pictures.shape[1:3]) >= SMALLEST
    if not fits or pictures.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8 (T, 32 or more, 32 or more, 4), not {pictures.dtype} {pictures.shape}")
    if not len(pictures):
        raise ValueError("there is no picture to look at")
    frames = pictures[_last_of_each(len(pictures))]
    rows, columns = (_lattice(side) for side in frames.shape[1:3])
    pixels = frames[:, rows, columns]
    alpha = pixels[..., 3].astype(np.float32) / 255
    light = _LINEAR[pixels[..., :3]]
    grey = _LINEAR[128]
    light = (light - grey) * alpha[..., None] + grey
    luma = _luma(pixels, alpha)
    contrast = np.zeros_like(luma)
    reach_y, reach_x = (max(1, side // 256) for side in frames.shape[1:3])  # the same place of a larger picture
    for other_rows, other_columns in ((_shifted(rows, reach_y), columns), (rows, _shifted(columns, reach_x))):
        beside = frames[:, other_rows, other_columns]
        contrast += np.abs(_luma(beside, beside[..., 3].astype(np.float32) / 255) - luma)
    lab = np.cbrt(_pooled(light, _CELLS) @ _CONES) @ _LAB
    return Look(lab, _pooled(alpha, _CELLS), _pooled(contrast, _REGIONS), _pooled(alpha, _REGIONS))


def drift_between(present: Look, reference: Look) -> Drift:
    """The distance of two looks; it is symmetric, and 0 from a look to itself."""
    one, other = _nearest(present.colour, reference.colour), _nearest(reference.colour, present.colour)
    colour = _mean(np.maximum(one, other), present.cover, reference.cover)
    ratio = np.abs(np.log(present.contrast + _FLOOR) - np.log(reference.contrast + _FLOOR))
    structure = _mean(ratio, present.region_cover, reference.region_cover)
    return Drift(float(np.hypot(colour, _STRUCTURE_WEIGHT * structure)), colour, structure)


def passes(drift: Drift, drifting: bool) -> bool:
    """Whether a stream has drifted, given whether it had before: once past ``BOUND``, until below ``SETTLED``."""
    return drift.distance > (SETTLED if drifting else BOUND)


def _last_of_each(count: int) -> slice:
    """Two frames of a chunk, evenly spaced and with its last one; all where there are fewer."""
    step = max(1, count // _FRAMES)
    return slice((count - 1) % step, None, step)


def _lattice(side: int) -> slice:
    """The rows or columns that are looked at: as many for each cell, centred in the picture."""
    count = _CELLS * min(_SAMPLES, side // SMALLEST)  # a step of two at least: there is a neighbour
    step = side // count
    begin = (side - step * count) // 2 + (step - 1) // 2
    return slice(begin, begin + step * (count - 1) + 1, step)


def _shifted(lattice: slice, reach: int) -> slice:
    return slice(lattice.start + reach, lattice.stop + reach, lattice.step)


def _luma(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Brightness over grey, -0.5..0.5."""
    mean = pixels[..., :3].astype(np.float32) @ np.full(3, 1 / (3 * 255), np.float32)
    return (mean - np.float32(_GREY)) * alpha


def _pooled(values: np.ndarray, cells: int) -> np.ndarray:
    """Means over frames and square cells: (T, h, w, ...) to (cells, cells, ...)."""
    t, h, w = values.shape[:3]
    return values.mean(0).reshape(cells, h // cells, cells, w // cells, *values.shape[3:]).mean((1, 3))


def _nearest(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Each cell's distance to the most similar of the other picture's cells at its place and around it, (16, 16)."""
    padded = others[_EDGES][:, _EDGES]
    around = np.stack([padded[i : i + _CELLS, j : j + _CELLS] for i in range(3) for j in range(3)])
    return np.sqrt(np.square(around - colours).sum(-1).min(0))


def _mean(values: np.ndarray, *covers: np.ndarray) -> float:
    """Over where either picture has something."""
    weights = np.maximum(*covers)
    total = float(weights.sum())
    return float((weights * values).sum()) / total if total > 1e-6 else 0.0
