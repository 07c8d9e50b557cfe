"""Contact sheets of studio characters: `python -m tools.studio.sheet -o sheet.png`."""

from __future__ import annotations

import argparse
from typing import Sequence

import numpy as np
import skia

from .character import Identity, Renderer
from .pose import REST, pose
from .visemes import MOUTH_FIELDS, MOUTH_SHAPES

EMOTIONS: dict[str, dict[str, float]] = {
    "rest": {},
    "happy": dict(smile=1, eye_squint=0.45, blush=0.7, brow_raise=0.35),
    "laugh": dict(
        smile=1,
        mouth_open=0.85,
        teeth=0.6,
        mouth_wide=0.5,
        eye_squint=1,
        blink_l=1,
        blink_r=1,
        blush=0.8,
        brow_raise=0.5,
    ),
    "sad": dict(
        smile=-0.9, brow_furrow=-0.9, brow_raise=-0.1, pitch=0.5, gaze_y=0.5, blink_l=0.22, blink_r=0.22, blush=0
    ),
    "angry": dict(smile=-0.8, brow_furrow=1, brow_raise=-0.4, eye_squint=0.3, blush=0.1),
    "surprised": dict(mouth_open=0.6, mouth_round=0.5, brow_raise=1, eye_squint=-1, smile=0),
    "blink": dict(blink_l=1, blink_r=1),
    "half": dict(blink_l=0.5, blink_r=0.5),
    "left": dict(yaw=-1, gaze_x=-0.8, roll=-0.5),
    "right": dict(yaw=1, gaze_x=0.8, roll=0.5),
    "up": dict(pitch=-1, gaze_y=-0.7),
    "down": dict(pitch=1, gaze_y=0.7),
}


def checker(size: int) -> np.ndarray:
    """float32 (size, size, 3) backdrop in 0..255."""
    y, x = np.mgrid[:size, :size] // max(1, size // 16)
    return np.where(((x + y) % 2)[..., None], 206.0, 222.0) * np.array([0.96, 0.98, 1.0])


def on_backdrop(rgba: np.ndarray) -> np.ndarray:
    """Straight-alpha uint8 (S, S, 4) over the checker: uint8 (S, S, 3)."""
    a = rgba[..., 3:].astype(np.float32) / 255
    return (rgba[..., :3] * a + checker(len(rgba)) * (1 - a) + 0.5).astype(np.uint8)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of equal-sized uint8 (S, S, 3) pictures as one picture."""
    return np.concatenate([np.concatenate(row, 1) for row in rows], 0)


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("-o", "--output", default="sheet.png", help="PNG to write")
    p.add_argument("--seeds", type=int, nargs="+", default=list(range(32)), help="identities to draw")
    p.add_argument("--columns", type=int, default=8)
    p.add_argument("--size", type=int, default=256, help="px of one picture")
    p.add_argument("--emotions", action="store_true", help="a row of expressions and head turns per seed")
    p.add_argument("--visemes", action="store_true", help="a row of the 15 visemes per seed")
    a = p.parse_args(argv)
    poses = [pose(**kw) for kw in EMOTIONS.values()] if a.emotions else []
    if a.visemes:
        poses += [pose(**dict(zip(MOUTH_FIELDS, map(float, shape)))) for shape in MOUTH_SHAPES]
    renderers = [Renderer(Identity.from_seed(s), a.size) for s in a.seeds]
    if poses:
        rows = [[on_backdrop(r.draw(q)) for q in poses] for r in renderers]
    else:
        cells = [on_backdrop(r.draw(REST)) for r in renderers]
        cells += [np.full_like(cells[0], 214)] * (-len(cells) % a.columns)
        rows = [cells[i : i + a.columns] for i in range(0, len(cells), a.columns)]
    sheet = contact_sheet(rows)
    rgba = np.concatenate([sheet, np.full_like(sheet[..., :1], 255)], -1)
    skia.Image.fromarray(np.ascontiguousarray(rgba), colorType=skia.kRGBA_8888_ColorType).save(a.output, skia.kPNG)
    print(f"{a.output}: {sheet.shape[1]}x{sheet.shape[0]}, {len(a.seeds)} identities")


if __name__ == "__main__":
    main()
