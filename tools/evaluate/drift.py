"""Does the drift meter tell drift from performance? Asked where the truth is known: of studio characters.

    python -m tools.evaluate.drift --identities 40
    python -m tools.evaluate.drift --bundle mini --seconds 20     # and what the product's own chunks give

Each row is the meter's distance between chunks of pictures and a character's rest picture: of its own true
performances, of those tinted, faded or blurred more and more, and of other characters' performances. ``separation``
is the chance that a chunk of that row is further away than a chunk of an untouched performance (0.5: not told apart).
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from streamchar_rt.drift import BOUND, Drift, drift_between, look_at

FRAMES = 16
DAMAGES: dict[str, tuple[float, ...]] = {"tint": (0.06, 0.12, 0.25), "fade": (0.1, 0.2, 0.4), "blur": (1, 2, 4)}


# ------------------------------------------------------------------ what can happen to a picture
def tint(pictures: np.ndarray, strength: float) -> np.ndarray:
    """More red and less blue, by the share ``strength``; uint8 (T, H, W, 4) as all of these."""
    return _recoloured(pictures, lambda colour: colour * np.float32([1 + strength, 1, 1 - strength]))


def fade(pictures: np.ndarray, strength: float) -> np.ndarray:
    """The share ``strength`` of the way to a light grey."""
    return _recoloured(pictures, lambda colour: colour + strength * (200 - colour))


def blur(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian of ``sigma`` px, alpha included."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).movedim(-1, 1).float() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)
    reach = int(3 * sigma) + 1
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(4, 1, -1)
    x = F.pad(x, (reach,) * 4, mode="replicate")
    x = F.conv2d(F.conv2d(x, kernel[:, :, None], groups=4), kernel[..., None], groups=4)
    x[:, :3] /= x[:, 3:].clamp(min=1 / 255)
    return (x.clamp(0, 1) * 255 + 0.5).byte().movedim(1, -1).numpy()


def _recoloured(pictures: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    out = pictures.copy()
    out[..., :3] = np.clip(change(pictures[..., :3].astype(np.float32)), 0, 255) + 0.5
    return out


# ------------------------------------------------------------------ the rows
def performances(identity: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """The rest picture, uint8 (H, W, 4), and chunks of performances, uint8 (4, H, W, 4): every fourth frame of 16."""
    from tools.studio.character import Identity, Renderer
    from tools.studio.pose import REST
    from tools.train.pictures import performed_track

    renderer = Renderer(Identity.from_seed(identity))
    chunks = [performed_track(rng, FRAMES)[3::4] for _ in range(count)]
    return renderer.draw(REST), [np.stack([renderer.draw(pose) for pose in track]) for track in chunks]


def studio_rows(identities: int, chunks: int, rng: np.random.Generator,
                progress: Callable[[str], None] = lambda text: None) -> dict[str, list[Drift]]:
    """The meter's readings by row, the untouched performances first."""
    from tools.train.pictures import HELD_OUT

    seeds = rng.choice(HELD_OUT, identities, replace=False)
    cast = []
    for i, seed in enumerate(seeds):
        picture, played = performances(int(seed), chunks, rng)
        cast.append((look_at(picture[None]), played))
        progress(f"{i + 1}/{identities} characters drawn")
    rows = {"same character": [drift_between(look_at(c), look) for look, played in cast for c in played]}
    for damage, strengths in DAMAGES.items():
        for strength in strengths:
            change = globals()[damage]
            rows[f"{damage} {strength:g}"] = [
                drift_between(look_at(change(c, strength)), look) for look, played in cast for c in played]
    rows["other character"] = [drift_between(look_at(played[0]), look)
                               for i, (_, played) in enumerate(cast) for j, (look, _) in enumerate(cast) if i != j]
    return rows


def product_chunks(bundle: str, seconds: float, seed: int, threads: int | None) -> Iterator[tuple[str, list[Drift]]]:
    """The drift of each chunk of each shipped character, speaking."""
    from streamchar_rt import Engine
    from tools.studio.sentences import evaluation_sentences

    with Engine.load(bundle, threads=threads) as engine:
        for i, name in enumerate(engine.characters()):
            with engine.session(name, seed=seed) as session:
                session.say(" ".join(evaluation_sentences()[10 * i: 10 * i + 1 + int(seconds / 2)]))
                chunks = [session.step() for _ in range(max(1, round(seconds / engine.info.chunk_seconds)))]
                yield name, [chunk.drift for chunk in chunks]


def summary(rows: dict[str, list[Drift]], base: str = "same character") -> list[dict[str, Any]]:
    """One dict a row: quantiles of the distance, medians of its parts, separation from the first row."""
    ground = np.array([d.distance for d in rows[base]])
    out = []
    for name, drifts in rows.items():
        values = np.array([d.distance for d in drifts])
        above = (values[:, None] > ground).mean() + 0.5 * (values[:, None] == ground).mean()
        low, median, high = np.quantile(values, (0.01, 0.5, 0.99))
        out.append({"row": name, "chunks": len(values), "p1": float(low), "median": float(median), "p99": float(high),
                    "colour": float(np.median([d.colour for d in drifts])),
                    "structure": float(np.median([d.structure for d in drifts])),
                    "separation": float(above), "past_bound": float((values > BOUND).mean())})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.drift", description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=40, help="held-out characters")
    parser.add_argument("--chunks", type=int, default=4, help="performances of each")
    parser.add_argument("--bundle", help="also measure what this model draws: a shipped model's name or a folder")
    parser.add_argument("--seconds", type=float, default=20, help="of each shipped character")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tell = lambda text: print(text, file=sys.stderr, flush=True)
    rows = studio_rows(args.identities, args.chunks, np.random.default_rng(args.seed), tell)
    if args.bundle:
        for name, drifts in product_chunks(args.bundle, args.seconds, args.seed, args.threads):
            tell(f"{name} has spoken")
            rows[f"product: {name}"] = drifts
    table = summary(rows)
    if args.json:
        print(json.dumps({"bound": BOUND, "rows": table}, indent=1))
        return
    print(f"{'':18} {'chunks':>6} {'p1':>7} {'median':>7} {'p99':>7} {'colour':>7} {'struct.':>7} {'separ.':>6} "
          f"past {BOUND}")
    for r in table:
        print(f"{r['row']:18} {r['chunks']:6} {r['p1']:7.4f} {r['median']:7.4f} {r['p99']:7.4f} {r['colour']:7.4f} "
              f"{r['structure']:7.3f} {r['separation']:6.3f} {r['past_bound']:7.1%}")


if __name__ == "__main__":
    main()
