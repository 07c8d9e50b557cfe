"""What a generated clip looks and sounds like, on one page.

    python -m tools.evaluate.contact_sheet "Hello there." --character mika -o sheet.png

Frames in a grid, each with its time and the viseme that the product reports; below them the spectrogram of the
sound with the words where they are spoken. ``--wav`` keeps the sound.
"""
from __future__ import annotations

import argparse
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from streamchar_rt.chunk import Chunk, Word
from streamchar_rt.orchestrator.visemes import VISEMES

RATE = 16_000
_LABEL = 14          # px above a frame
_SHEET_GREY = (196, 198, 204)


def spectrogram(samples: np.ndarray, width: int, height: int, range_db: float = 70.0) -> np.ndarray:
    """uint8 (height, width): dark is loud, 0 Hz at the bottom, 0 dB the loudest point of the clip."""
    size = 512
    padded = np.pad(np.asarray(samples, np.float64), size // 2)
    starts = np.linspace(0, len(padded) - size, width).astype(int)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-12), 1e-12))
    level = np.clip(1 + decibels / range_db, 0, 1).T[::-1]
    rows = np.linspace(0, len(level) - 1, height)
    below = rows.astype(int)
    mix = (rows - below)[:, None]
    level = (1 - mix) * level[below] + mix * level[np.minimum(below + 1, len(level) - 1)]
    return (255 * (1 - level) + 0.5).astype(np.uint8)


def frame_grid(frames: np.ndarray, labels: Sequence[str], columns: int, side: int) -> Image.Image:
    """uint8 frames (T, H, W, 4) straight alpha, one label each, row by row over grey."""
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + _LABEL)), _SHEET_GREY)
    draw = ImageDraw.Draw(sheet)
    for i, (pixels, label) in enumerate(zip(frames, labels, strict=True)):
        x, y = i % columns * side, i // columns * (side + _LABEL)
        picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x, y + _LABEL), picture)
        draw.text((x + 3, y + 1), label, fill=(20, 20, 30))
    return sheet


def sound_strip(samples: np.ndarray, words: Sequence[Word], width: int, height: int = 180) -> Image.Image:
    """The spectrogram, with a tick for each second and the words below it."""
    strip = Image.new("RGB", (width, height + 30), "white")
    strip.paste(Image.fromarray(spectrogram(samples, width, height)), (0, 0))
    draw = ImageDraw.Draw(strip)
    at = lambda pts: int(pts * width / max(len(samples), 1))
    for second in range(len(samples) // RATE + 1):
        draw.line([(at(second * RATE), height - 8), (at(second * RATE), height)], fill=(220, 40, 40), width=2)
        draw.text((at(second * RATE) + 3, height - 14), f"{second} s", fill=(220, 40, 40))
    for i, word in enumerate(words):
        y = height + 2 + i % 2 * 13
        draw.line([(at(word.begin_pts), 0), (at(word.begin_pts), y + 10)], fill=(60, 110, 220), width=1)
        draw.text((at(word.begin_pts) + 3, y), word.text, fill=(20, 40, 120))
    return strip


def sheet_of(chunks: Sequence[Chunk], *, every: int = 2, columns: int = 12, side: int = 128) -> Image.Image:
    """The page of a turn's chunks; every ``every``-th frame is shown."""
    samples = np.concatenate([chunk.audio for chunk in chunks])
    visemes = [viseme for chunk in chunks for viseme in chunk.visemes]
    frames, labels = [], []
    shown = [frame for chunk in chunks for frame in chunk.frames()][::every]
    for frame in shown:
        name = next((VISEMES[v.id] for v in visemes if v.begin_pts <= frame.pts < v.end_pts), "")
        frames.append(frame.pixels)
        labels.append(f"{frame.pts / RATE:.2f} {name}")
    grid = frame_grid(np.stack(frames), labels, min(columns, len(frames)), side)
    strip = sound_strip(samples, [word for chunk in chunks for word in chunk.words], grid.width)
    page = Image.new("RGB", (grid.width, grid.height + strip.height), "white")
    page.paste(grid, (0, 0))
    page.paste(strip, (0, grid.height))
    return page


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.contact_sheet", description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--bundle", default="mini")
    parser.add_argument("--character", help="a shipped name or a picture; default the bundle's first")
    parser.add_argument("--voice")
    parser.add_argument("--emotion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="denoising steps; default the bundle's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--every", type=int, default=2, help="show every n-th frame")
    parser.add_argument("--wav", type=Path, help="also write the sound")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    from streamchar_rt import Engine

    with Engine.load(args.bundle, threads=args.threads) as engine:
        character = engine.character(args.character or engine.characters()[0], voice=args.voice)
        with engine.session(character, seed=args.seed, steps=args.steps) as session:
            if args.emotion:
                session.cue(args.emotion)
            session.say(args.text)
            chunks = list(session.turn())
    sheet_of(chunks, every=args.every).save(args.out)
    if args.wav:
        write_wav(args.wav, np.concatenate([chunk.audio for chunk in chunks]))
    factor = float(np.mean([chunk.timings.real_time_factor for chunk in chunks]))
    print(f"{args.out}: {len(chunks)} chunks, {sum(c.duration for c in chunks):.2f} s, real-time factor {factor:.2f}")


if __name__ == "__main__":
    main()
