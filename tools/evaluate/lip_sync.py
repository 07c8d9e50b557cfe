"""Does the mouth move with the speech? Measured on what the product generates, beside the studio's truth.

    python -m tools.evaluate.lip_sync --bundle mini --sentences 20

Three measures. Two are Pearson correlations over frames at the best common offset:

- alignment: mouth opening read from the pictures (``mouth_reader``) against the opening that the studio's
  ``perform`` gives for the phones and times that the product itself reports. Truth: the studio's own drawing of
  that very track, read by the same reader.
- energy: mouth opening read from the pictures against the loudness of the sound, which trusts no alignment.
  Truth: flite's speech of the same sentence with the studio's picture.

The third is the sync expert's (``sync_expert``): confidence, distance and offset, of the product's picture with its
sound, and of the same truth.

An offset of +k frames means that the picture is k frames (k / 25 s) later than it should be.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from streamchar_rt.engine import Engine
from streamchar_rt.orchestrator.units import UNIT_NAMES, is_phone
from tools.evaluate.sync_expert import best_sync, load_expert

FPS = 25
REACH = 10           # frames looked at either side
Segment = tuple[str, float, float, int]  # phone, begin s, end s, stress
Pair = tuple[np.ndarray, np.ndarray]     # expected and measured, (T,) each


# ------------------------------------------------------------------ measures
class Sync(NamedTuple):
    correlation: float  # at the best offset
    offset: int  # frames; + is a late picture
    correlation_at_zero: float


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two tracks; 0 where one of them does not move."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-9 else 0.0


def shifted(expected: np.ndarray, measured: np.ndarray, offset: int) -> Pair:
    """The frames that overlap when ``measured`` is ``offset`` frames late."""
    n = min(len(expected), len(measured))
    expected, measured = expected[:n], measured[:n]
    return (expected[: n - offset], measured[offset:]) if offset >= 0 else (expected[-offset:], measured[:offset])


def synchrony(pairs: Sequence[Pair], reach: int = REACH) -> Sync:
    """One offset for all pairs: the one at which the mean of their correlations, weighted by length, is highest.

    Raises ValueError where a pair is not longer than three times ``reach``.
    """
    if not pairs:
        raise ValueError("there are no tracks to compare")
    return best_offset([correlations(*pair, reach) for pair in pairs], [len(a) for a, _ in pairs])


def correlations(expected: np.ndarray, measured: np.ndarray, reach: int = REACH) -> list[float]:
    """Correlation at each offset from ``-reach`` to ``reach``.

    Raises ValueError for a track that is not as long as three times ``reach``.
    """
    if min(len(expected), len(measured)) < 3 * reach:
        raise ValueError(f"each track needs at least {3 * reach} frames to look {reach} frames either way")
    return [pearson(*shifted(expected, measured, k)) for k in range(-reach, reach + 1)]


def best_offset(curves: Sequence[Sequence[float]], weights: Sequence[float]) -> Sync:
    """What ``synchrony`` says, of ``correlations`` that were kept."""
    curve = np.average(curves, axis=0, weights=weights)
    reach = len(curve) // 2
    best = max(range(-reach, reach + 1), key=lambda k: (curve[k + reach], -abs(k)))
    return Sync(float(curve[best + reach]), best, float(curve[reach]))


def loudness(samples: np.ndarray, frames: int, sample_rate: int = 16_000) -> np.ndarray:
    """Loudness of each video frame, float32 (frames,) in 0..1: 0 is 50 dB below the clip's loudest frame.

    Energy in Hann windows of two frames about each frame's middle.
    """
    hop = sample_rate // FPS
    padded = np.zeros((frames + 1) * hop, np.float64)
    part = np.asarray(samples, np.float64)[: frames * hop]
    padded[hop // 2: hop // 2 + len(part)] = part
    window = np.hanning(2 * hop + 1)[:-1]
    energy = np.array([(window * padded[i * hop: (i + 2) * hop] ** 2).sum() for i in range(frames)])
    decibels = 10 * np.log10(np.maximum(energy, 1e-12) / max(energy.max(), 1e-12))
    return (np.maximum(decibels, -50) / 50 + 1).astype(np.float32)


def spoken_part(level: np.ndarray, margin: int = 5, shortest: int = 3 * REACH) -> slice:
    """Where speech is, with ``margin`` frames either side: silence would make any two tracks agree."""
    loud = np.flatnonzero(level > 0.3)
    if not len(loud):
        return slice(0, len(level))
    begin, end = max(0, loud[0] - margin), min(len(level), loud[-1] + 1 + margin)
    return slice(max(0, min(begin, end - shortest)), max(end, shortest))


# ------------------------------------------------------------------ what the product says
class AlignedEngine(Engine):
    """The product's engine, which also keeps the unit of every half-frame that its sessions speak."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.spoken: list[tuple[int, int, int]] = []  # (place, unit, stress) of each half-frame

    def generate(self, state: Any, *rest: Any) -> Any:
        base, rows = state.units.base, list(state.units.rows)  # the state forgets units as it speaks
        raw = super().generate(state, *rest)
        if raw is not None:
            self.spoken += [(int(place), *rows[place - base][:2]) for place in raw.places]
        return raw


def segments_of(spoken: Sequence[tuple[int, int, int]], lead: float, step: float) -> list[Segment]:
    """Half-frames (place, unit, stress) to phones with times.

    ``lead``: seconds at which the first half-frame begins; ``step``: seconds of one.
    """
    segments: list[Segment] = [("pau", 0.0, lead, 0)] if lead else []
    begin = 0
    for i in range(1, len(spoken) + 1):
        if i == len(spoken) or spoken[i][0] != spoken[begin][0]:
            _, unit, stress = spoken[begin]
            name = UNIT_NAMES[unit] if is_phone(unit) else "pau"
            segments.append((name, lead + begin * step, lead + i * step, stress))
            begin = i
    return segments


@dataclass
class Clip:
    samples: np.ndarray  # float32 (n,)
    frames: np.ndarray  # uint8 (T, 256, 256, 4)
    segments: list[Segment]


def speak(engine: AlignedEngine, character: str, text: str, seed: int) -> Clip:
    """One turn of a new session."""
    engine.spoken.clear()
    with engine.session(character, seed=seed) as session:
        session.say(text)
        chunks = list(session.turn())
    step = engine.info.chunk_samples / engine.info.sample_rate / (2 * engine.info.chunk_frames)
    return Clip(np.concatenate([c.audio for c in chunks]), np.concatenate([c.video for c in chunks]),
                segments_of(engine.spoken, engine.audio_lead * step, step))


# ------------------------------------------------------------------ the comparison
@dataclass
class Tracks:
    """Pairs of (expected, measured), one a sentence."""

    alignment_product: list[Pair] = field(default_factory=list)
    alignment_truth: list[Pair] = field(default_factory=list)
    energy_product: list[Pair] = field(default_factory=list)
    energy_truth: list[Pair] = field(default_factory=list)
    expert_product: list[tuple[list[float], int]] = field(default_factory=list)  # distances and frames
    expert_truth: list[tuple[list[float], int]] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name in ("alignment", "energy"):
            product, truth = (synchrony(getattr(self, f"{name}_{side}")) for side in ("product", "truth"))
            out[name] = {"product": product._asdict(), "truth": truth._asdict(),
                         "share": product.correlation / truth.correlation}
        product, truth = (best_sync(*zip(*getattr(self, f"expert_{side}"))) for side in ("product", "truth"))
        out["expert"] = {"product": product._asdict(), "truth": truth._asdict(),
                         "share": product.confidence / truth.confidence}
        return out


def studio_frames(identity: int, track: np.ndarray) -> np.ndarray:
    from tools.studio.character import Identity, Renderer

    renderer = Renderer(Identity.from_seed(identity))
    return np.stack([renderer.draw(pose) for pose in track])


def measure(engine: AlignedEngine, sentences: Sequence[str], *, seed: int = 0,
            progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Speaks the sentences with the shipped characters in turn; see the module for what is returned."""
    from tools.evaluate.mouth_reader import load_reader
    from tools.studio.behaviour import perform
    from tools.studio.cast import CAST
    from tools.studio.pose import COLUMN
    from tools.studio.speech import synthesize

    reader, expert = load_reader(), load_expert()
    characters = [name for name in engine.characters() if name in CAST]
    if not characters:
        raise SystemExit("the bundle has none of the studio's characters (tools/studio/cast.py), so there is no truth")
    tracks, rows, begun = Tracks(), [], time.monotonic()
    opening = COLUMN["mouth_open"]
    for i, text in enumerate(sentences):
        name = characters[i % len(characters)]
        clip = speak(engine, name, text, seed + i)
        count = len(clip.frames)
        measured = reader.read(clip.frames)
        tracks.expert_product.append((expert.distances(expert.see(clip.frames), clip.samples), count))
        level = loudness(clip.samples, count)
        part = spoken_part(level)
        track = perform(clip.segments, count, seed=seed + i)
        drawn = reader.read(studio_frames(CAST[name], track))
        tracks.alignment_product.append((track[part, opening], measured[part]))
        tracks.alignment_truth.append((track[part, opening], drawn[part]))
        tracks.energy_product.append((level[part], measured[part]))

        voice = engine.character(name).voice
        true = synthesize(text, voice=voice)
        count = len(true.samples) * FPS // 16_000
        track = perform([(p.name, p.begin, p.end, p.stress) for p in true.phones], count, seed=seed + i)
        level = loudness(true.samples, count)
        part = spoken_part(level)
        drawn = studio_frames(CAST[name], track)
        tracks.energy_truth.append((level[part], reader.read(drawn)[part]))
        sound = true.samples.astype(np.float32) / 32768
        tracks.expert_truth.append((expert.distances(expert.see(drawn), sound), count))

        own = synchrony(tracks.alignment_product[-1:])
        rows.append({"text": text, "character": name, "voice": voice, "frames": len(measured), **own._asdict()})
        left = (time.monotonic() - begun) / (i + 1) * (len(sentences) - i - 1)
        progress(f"{i + 1}/{len(sentences)} {name}: {own.correlation:.2f} at {own.offset:+d}, {left:.0f} s left")
    return {**tracks.report(), "sentences": len(sentences), "characters": characters, "utterances": rows}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.lip_sync", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="mini", help="a shipped model's name or a bundle's folder")
    parser.add_argument("--sentences", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    args = parser.parse_args()
    from tools.studio.sentences import evaluation_sentences

    with AlignedEngine.load(args.bundle, threads=args.threads) as engine:
        result = measure(engine, evaluation_sentences()[: args.sentences], seed=args.seed,
                         progress=lambda text: print(text, file=sys.stderr, flush=True))
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for name in ("alignment", "energy"):
        row = result[name]
        for side in ("product", "truth"):
            s = row[side]
            print(f"{name:9} {side:7} correlation {s['correlation']:.3f} at {s['offset']:+d} frames "
                  f"({s['correlation_at_zero']:.3f} at 0)")
        print(f"{name:9} share   {row['share']:.3f}")
    for side in ("product", "truth"):
        s = result["expert"][side]
        print(f"expert    {side:7} confidence {s['confidence']:.3f}, distance {s['distance']:.3f} "
              f"at {s['offset']:+d} frames")
    print(f"expert    share   {result['expert']['share']:.3f}")
    print(f"{result['sentences']} sentences, {len(result['characters'])} characters; + is a late picture")


if __name__ == "__main__":
    main()
