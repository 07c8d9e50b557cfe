"""How far the character's picture has drifted from its reference picture: a cheap meter, without weights.

A stream that is generated from its own history can drift: colours fade or shift, outlines and texture wash out,
another face appears. Speaking, blinking and turning the head must not count. So a picture is looked at in two ways:

- **colour**: the picture over mid grey as 16 x 16 cells of mean colour, averaged in linear light (what one sees from
  afar) and then taken to OKLab (B. Ottosson, 2020), where equal distances look about equally different. Mouth and
  eyes are small in a cell. Each cell of either picture is compared with the other's cells around its place, and the
  nearest colour counts: a head that turns or nods by a cell is no other colour, but a tint has nowhere to hide, nor
  have other hair or clothes.
- **structure**: contrast between neighbouring pixels in 4 x 4 regions, as logarithms of ratios. A picture that blurs
  loses it everywhere; where a head moves, its lines move within their region.

Both are averaged over where the character is, so that the empty background counts for nothing. ``python -m
tools.evaluate.drift`` says how well this tells drift from performance. Everything is sums over a fixed lattice of
pixels, so equal pictures give equal numbers.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Distance that a chunk must pass for a ``drift`` event, and the one it must fall below before there is another. Half
#: as much again as the highest of true performances (0.031), and half of the lowest of other characters (0.082).
BOUND, SETTLED = 0.045, 0.038
SMALLEST = 32  # px: the side of a picture that can be looked at

_CELLS = 16  # a side, of colour
_REGIONS = 4  # a side, of structure
_SAMPLES = 4  # pixels along a cell's side that are looked at
_GREY = 128  # what shows through, in sRGB
_FLOOR = 0.004  # contrast that counts as none
_STRUCTURE_WEIGHT = 0.1  # a blur by 2 px weighs as much as a tint by a third

_LINEAR = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.arange(256) / 255],
                   np.float32)
_OVER_GREY = _LINEAR - _LINEAR[_GREY]
_Y, _X = np.divmod(np.arange(_CELLS**2), _CELLS)
# Each cell and those around it, (9, 256); at the border some of them twice.
_AROUND = np.stack([np.clip(_Y + dy, 0, _CELLS - 1) * _CELLS + np.clip(_X + dx, 0, _CELLS - 1)
                    for dy in (-1, 0, 1) for dx in (-1, 0, 1)])

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
            same character have 0.014 to 0.031, of another one 0.08 and more.
        colour: mean distance in OKLab of the colours that the character has; 0.02 is just noticeable.
        structure: mean absolute logarithm of the ratio of local contrast; 0.7 is half or twice the contrast.
    """

    distance: float
    colour: float
    structure: float


@dataclass(frozen=True, slots=True)
class Look:
    """What the meter sees of a picture."""

    colour: npt.NDArray[np.float32]  # (16, 16, 3) OKLab over grey
    cover: npt.NDArray[np.float32]  # (16, 16) mean alpha, 0..1
    contrast: npt.NDArray[np.float32]  # (4, 4)
    region_cover: npt.NDArray[np.float32]  # (4, 4)


def look_at(pictures: npt.NDArray[np.uint8]) -> Look:
    """The look of the last of pictures (T, height, width, 4), straight alpha, 32 px a side or more.

    One frame tells nearly as much as four of a chunk do, and the last is what the next chunk sees.

    Raises:
        ValueError: for another shape or type.
    """
    fits = pictures.ndim == 4 and pictures.shape[3] == 4 and min(pictures.shape[1:3]) >= SMALLEST
    if not fits or pictures.dtype != np.uint8:
        raise ValueError(f"pictures are uint8 (T, 32 or more, 32 or more, 4), not {pictures.dtype} {pictures.shape}")
    if not len(pictures):
        raise ValueError("there is no picture to look at")
    planes = _sampled(np.ascontiguousarray(pictures[-1]))
    count = planes.shape[2]
    alpha = planes[3].astype(np.float32)
    light = _OVER_GREY.take(planes[:3, 0])
    light *= alpha[0]
    light = light.sum(1) * np.float32(1 / (255 * count)) + _LINEAR[_GREY]
    luma = planes[0].astype(np.float32)  # whole numbers from here on, and all sums below 2**24: exact in any order
    luma += planes[1]
    luma += planes[2]
    luma -= 3 * _GREY
    luma *= alpha
    contrast = _regions(np.abs(luma[1:] - luma[0]).sum((0, 1))) * np.float32(1 / (3 * 255 * 255 * count))
    cover = alpha[0].sum(0) * np.float32(1 / (255 * count))
    lab = np.cbrt(light.T @ _CONES) @ _LAB
    return Look(lab.reshape(_CELLS, _CELLS, 3), cover.reshape(_CELLS, _CELLS), contrast, _regions(cover))


def drift_between(present: Look, reference: Look) -> Drift:
    """The distance of two looks; it is symmetric, and 0 from a look to itself."""
    pair = np.stack([look.colour.reshape(-1, 3).T for look in (present, reference)])
    apart = pair.take(_AROUND, 2)  # of either picture's cells the other's at the place and around it
    apart -= pair[::-1, :, None]
    apart *= apart
    nearest = np.sqrt((apart[:, 0] + apart[:, 1] + apart[:, 2]).min(1).max(0))
    colour = _mean(nearest.reshape(_CELLS, _CELLS), present.cover, reference.cover)
    ratio = np.abs(np.log(present.contrast + _FLOOR) - np.log(reference.contrast + _FLOOR))
    structure = _mean(ratio, present.region_cover, reference.region_cover)
    return Drift(math.hypot(colour, _STRUCTURE_WEIGHT * structure), colour, structure)


def passes(drift: Drift, drifting: bool) -> bool:
    """Whether a stream has drifted, given whether it had before: once past ``BOUND``, until below ``SETTLED``."""
    return drift.distance > (SETTLED if drifting else BOUND)


def _lattice(side: int) -> slice:
    """The rows or columns that are looked at: as many for each cell, centred in the picture."""
    count = _CELLS * min(_SAMPLES, side // SMALLEST)  # a step of two at least: there is a neighbour
    step = side // count
    begin = (side - step * count) // 2 + (step - 1) // 2
    return slice(begin, begin + step * (count - 1) + 1, step)


def _sampled(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pixels on the lattice, those below them and those beside them: (4 channels, 3, samples of a cell, cells)."""
    pixels = picture.view(np.uint32)[..., 0]
    rows, columns = (_lattice(side) for side in pixels.shape)
    below, beside = (max(1, side // 256) for side in pixels.shape)  # the same place of a larger picture
    down, right = (slice(s.start + by, s.stop + by, s.step) for s, by in ((rows, below), (columns, beside)))
    three = pixels[rows, columns], pixels[down, columns], pixels[rows, right]
    h, w = (side // _CELLS for side in three[0].shape)
    found = np.empty((3, h, w, _CELLS, _CELLS), np.uint32)
    for out, part in zip(found, three):
        out[...] = part.reshape(_CELLS, h, _CELLS, w).transpose(1, 3, 0, 2)
    return np.ascontiguousarray(np.moveaxis(found.view(np.uint8).reshape(3, h * w, _CELLS**2, 4), -1, 0))


def _regions(cells: np.ndarray) -> np.ndarray:
    """Means of (256,) over the regions, (4, 4)."""
    a_side = _CELLS // _REGIONS
    return cells.reshape(_REGIONS, a_side, _REGIONS, a_side).sum((1, 3)) * np.float32(1 / a_side**2)


def _mean(values: np.ndarray, *covers: np.ndarray) -> float:
    """Over where either picture has something."""
    weights = np.maximum(*covers)
    total = float(weights.sum())
    return float((weights * values).sum()) / total if total > 1e-6 else 0.0
