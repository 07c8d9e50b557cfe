"""Do the eyes do what they are told? Their boxes in the product's pictures, beside the studio's drawing of the same pose.

    python -m tools.evaluate.eyes --bundle DIR
    python -m tools.evaluate.eyes --bundle DIR --out eyes.png      # and a strip of blinks: told, drawn

Every shipped character speaks for a while. The studio draws it again with the head where the latents say it is, once with
the eyes as they were told and once open and looking ahead. The PSNR of the eyes' boxes against either, in frames in which
they close, look away, and do neither, says which of the two the product has drawn: it should be nearer to what was told.
``--still``: without the network that draws the moves.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from streamchar_rt import Engine, pipeline
from streamchar_rt.codecs.video import MotionCode
from streamchar_rt.models import Models
from tools.studio.cast import CAST
from tools.studio.pose import COLUMN, REST, clamp

TEXT = ("The little harbour town wakes before the sun does. Fishermen carry their nets down to the quay, and the gulls "
        "follow them, hoping for breakfast. In the bakery on the corner, somebody is already singing.")
CLOSED, AWAY = 0.7, 0.25      # blink, and reach of the gaze, from which a frame counts
KINDS = ("closed", "away", "ahead")


@contextmanager
def watched(still: bool) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Of the chunks drawn inside: the rigid movement that the latents say, (frames, RIGID), and the eyes' moves, (frames,
    3). ``still``: without them."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    decode_video = pipeline._decode_video

    def watch(models: Models, state: Any, latents: torch.Tensor, moves: np.ndarray, *rest: Any) -> Any:
        drawn = torch.cat(models.drawn_latents(latents, state.previous_latent))
        rigid = models.movement.read(drawn[:, : MotionCode.CHANNELS]).flatten(0, 1)
        seen.append((rigid.numpy().copy(), moves.copy()))
        return decode_video(models, state, latents, None if still else moves, *rest)

    with patch.object(pipeline, "_decode_video", watch):
        yield seen


def poses(rigid: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Pose track (T, P) of a still face with these movements."""
    track = np.tile(REST, (len(rigid), 1))
    track[:, : rigid.shape[1]] = rigid
    for name, column in (("blink_l", 0), ("blink_r", 0), ("gaze_x", 1), ("gaze_y", 2)):
        track[:, COLUMN[name]] = moves[:, column]
    return clamp(track)


def over_grey(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return pixels[..., :3].astype(np.float32) * alpha + 128 * (1 - alpha)


def kind_of(move: np.ndarray) -> str | None:
    if move[0] >= CLOSED:
        return "closed"
    if move[0] > 0:
        return None
    return "away" if np.hypot(*move[1:]) >= AWAY else "ahead" if np.hypot(*move[1:]) < AWAY / 2 else None


def judge(renderer: Any, frames: np.ndarray, rigid: np.ndarray, moves: np.ndarray) -> dict[str, list[tuple[float, float]]]:
    """By kind of frame, each eye's mean square error against the told drawing and against the one with open eyes."""
    out: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    told, still = poses(rigid, moves), poses(rigid, np.zeros_like(moves))
    for t, move in enumerate(moves):
        kind = kind_of(move)
        if kind is None:
            continue
        drawn, boxes = over_grey(frames[t]), renderer.boxes(still[t])
        truths = [over_grey(renderer.draw(pose[t])) for pose in (told, still)]
        for eye in ("eye_l", "eye_r"):
            x0, y0, x1, y1 = (int(v) for v in boxes[eye])
            cut = lambda picture: picture[y0: y1 + 1, x0: x1 + 1]
            a, b = (float(np.square(cut(drawn) - cut(truth)).mean()) for truth in truths)
            out[kind].append((a, b))
    return out


def strip(renderer: Any, frames: np.ndarray, rigid: np.ndarray, moves: np.ndarray) -> np.ndarray | None:
    """The first blink of a take: the studio's drawing above, the product's below."""
    at = next((t for t in range(3, len(moves) - 5) if moves[t, 0] >= CLOSED), None)
    if at is None:
        return None
    told = poses(rigid, moves)
    some = range(at - 3, at + 5)
    rows = [[over_grey(renderer.draw(told[t])) for t in some], [over_grey(frames[t]) for t in some]]
    return np.concatenate([np.concatenate([p[60:170, 60:200] for p in row], 1) for row in rows]).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    from tools.studio.character import Identity, Renderer

    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.eyes", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True, help="one with a network for the eyes")
    parser.add_argument("--chunks", type=int, default=14, help="of each character")
    parser.add_argument("--still", action="store_true", help="leave out the network that draws the moves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a picture of blinks")
    args = parser.parse_args(arguments)
    errors: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    strips = []
    with Engine.load(args.bundle) as engine:
        if engine.models.eyes is None:
            parser.error(f"{args.bundle} has no network for the eyes: see python -m tools.train.eyes, .export --eyes")
        for i, name in enumerate(CAST):
            with watched(args.still) as seen, engine.session(name, seed=args.seed + i) as session:
                session.say(TEXT)
                frames = np.concatenate([session.step().video for _ in range(args.chunks)])
            rigid, moves = (np.concatenate(part) for part in zip(*seen))
            renderer = Renderer(Identity.from_seed(CAST[name]))
            for kind, found in judge(renderer, frames, rigid, moves).items():
                errors[kind] += found
            picture = strip(renderer, frames, rigid, moves)
            strips += [] if picture is None else [picture]
            print(f"{i + 1}/{len(CAST)} {name}", flush=True)
    decibel = lambda error: 10 * np.log10(255 ** 2 / max(float(error), 1e-9))
    for kind, found in errors.items():
        if found:
            told, still = np.array(found).T
            print(f"{kind}: {len(found)} eyes, PSNR {decibel(told.mean()):.1f} dB against what was told, "
                  f"{decibel(still.mean()):.1f} dB against open eyes that look ahead; nearer to what was told: "
                  f"{(told < still).mean():.0%}" if kind != "ahead" else
                  f"{kind}: {len(found)} eyes, PSNR {decibel(told.mean()):.1f} dB")
    if args.out and strips:
        from PIL import Image

        Image.fromarray(np.concatenate(strips)).save(args.out)


if __name__ == "__main__":
    main()
