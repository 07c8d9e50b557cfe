"""The short-clip protocol: many clips of about ten seconds, the product beside the studio's truth, all judges.

    python -m tools.evaluate.short_clips --out DIR                # 150 clips; begin again and it goes on
    python -m tools.evaluate.short_clips --out DIR --clips 6

For each clip the product says a text of held-out sentences as one turn of a new session, the shipped characters in
turn, each with its own voice. The truth is flite's speech of the same text in the same voice, with the studio's
drawing of the same character acting to flite's own phones. Both go through the same judges: pocketsphinx (WER), the
judge of phones (``phone_judge``, against flite's phones of the text), the mouth reader (lip sync, see ``lip_sync``),
the sync expert (``sync_expert``), the drift meter (identity), random features (distances of pictures and of clips, see
``picture_distance`` and ``video_distance``). Writes clips.jsonl, report.json and report.html, which needs nothing else, to DIR.
"""
from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from streamchar_rt.bundle import open_bundle
from tools.evaluate import resumable
from tools.evaluate.contact_sheet import frame_grid, sheet_of
from tools.evaluate.lip_sync import best_offset, correlations, loudness, spoken_part
from tools.evaluate.phone_judge import PhoneErrors, phone_errors, rate_of
from tools.evaluate.picture_distance import SEED, frechet_distance, means_part
from tools.evaluate.recognise import Recogniser
from tools.evaluate.report import Page, wav_bytes
from tools.evaluate.similarity import identity_similarity
from tools.evaluate.sync_expert import best_sync
from tools.evaluate.take import (
    FEATURE_EVERY, JUDGES, AblatedEngine, Judges, Take, another_performance, perform_text, played_characters, true_take,
)
from tools.evaluate.transcripts import clip_texts
from tools.evaluate.video_distance import CLIP, VideoFeatures
from tools.evaluate.wer import score
from tools.studio.behaviour import perform
from tools.studio.cast import CAST
from tools.studio.pose import COLUMN

SIDES = ("product", "truth")
FEATURES = 1  # counts up where they change, as JUDGES does
SHOWN_EVERY = 6  # frames


# ------------------------------------------------------------------ one clip
def judge(take: Take, text: str, phones: Sequence[str], recogniser: Recogniser, stranger: float,
          seed: int) -> dict[str, Any]:
    """What is said of one side of a clip; plain values. ``phones``: of the text, as the true voice says them."""
    audio = take.audio
    heard = recogniser(audio)
    edits, words = score(text, heard)
    level = loudness(audio, take.frames)
    part = spoken_part(level)
    track = perform(take.segments, take.frames, seed=seed)[part, COLUMN["mouth_open"]]
    measured = take.opening[part]
    return {
        "heard": heard, "errors": edits.errors, "words": words, "seconds": len(audio) / 16_000,
        "phones": phone_errors(phones, [p.name for p in take.judges.phones.hear(audio)])._asdict(),
        "frames": take.frames, "sync": take.judges.expert.distances(take.seen, audio),
        "track_frames": len(measured), "alignment": correlations(track, measured),
        "energy": correlations(level[part], measured), "similarity": identity_similarity(take.drifts, stranger),
        "drift": float(np.mean([d.distance for d in take.drifts])),
        "colour": float(np.mean([d.colour for d in take.drifts])),
        "structure": float(np.mean([d.structure for d in take.drifts])),
        "movement": float(take.jumps[1:].mean()), "real_time_factors": take.real_time_factors,
    }


class Clips:
    """Makes and judges the clips of one run; ``__call__`` does one."""

    def __init__(self, engine: AblatedEngine, texts: Sequence[str], folder: Path, *, seed: int, shown: int) -> None:
        self.engine, self.texts, self.folder, self.seed, self.shown = engine, texts, folder, seed, shown
        self.judges, self.recogniser = Judges(video=VideoFeatures()), Recogniser()
        self.names, self.stranger = played_characters(engine)

    def __call__(self, key: str) -> dict[str, Any]:
        i = int(key)
        text, name, seed = self.texts[i], self.names[i % len(self.names)], self.seed + i
        voice, keep = self.engine.character(name).voice, i < self.shown
        chunks: list[Any] = []
        product = perform_text(self.engine, self.judges, name, text, seed=seed,
                               each=chunks.append if keep else lambda chunk: None)
        truth = true_take(self.judges, CAST[name], voice, text, seed=seed, still_every=SHOWN_EVERY * keep)
        again = another_performance(self.judges, CAST[name], truth.segments, truth.frames, seed + 1_000_000)
        np.savez(self.folder / f"features-{key}.npz", product=product.features, truth=truth.features, again=again[0],
                 rest=self.judges.features(self.engine.character(name).picture[None]),
                 video_product=product.video_features, video_truth=truth.video_features, video_again=again[1])
        if keep:
            sheet_of(chunks, every=SHOWN_EVERY).convert("RGB").save(self.folder / f"product-{key}.jpg", quality=85)
            times, pictures = zip(*truth.stills)
            grid = frame_grid(np.stack(pictures), [f"{t:.2f}" for t in times], 12, 128)
            grid.convert("RGB").save(self.folder / f"truth-{key}.jpg", quality=85)
            for side, take in zip(SIDES, (product, truth)):
                (self.folder / f"{side}-{key}.wav").write_bytes(wav_bytes(take.audio))
        return {"text": text, "character": name, "voice": voice,
                **{side: judge(take, text, truth.said, self.recogniser, self.stranger, seed)
                   for side, take in zip(SIDES, (product, truth))}}


def prepare(args: argparse.Namespace) -> Clips:
    engine = AblatedEngine.load(args.bundle, threads=1 if args.processes > 1 else args.threads)
    return Clips(engine, clip_texts(args.clips, args.seconds, args.seed), args.out, seed=args.seed, shown=args.show)


# ------------------------------------------------------------------ all clips
def summarize(records: dict[str, dict], features: Callable[[str], dict[str, np.ndarray]]) -> dict[str, Any]:
    """The report's figures, of one clip or more.

    Args:
        features: of a clip's pictures, by "product", "truth", "again" (another true performance) and "rest" (the reference
            picture); of its frames in motion, by "video_product", "video_truth" and "video_again".
    """
    out: dict[str, Any] = {"clips": len(records)}
    for side in SIDES:
        rows = [record[side] for record in records.values()]
        errors, words = (np.array([row[n] for row in rows], float) for n in ("errors", "words"))
        rate = errors.sum() / words.sum()
        deviation = np.sqrt(np.square(errors - rate * words).sum()) / words.sum()  # a clip's errors come together
        weights = [row["track_frames"] for row in rows]
        per, per_deviation = rate_of([PhoneErrors(**row["phones"]) for row in rows])
        factors = [f for row in rows for f in row["real_time_factors"]]
        out[side] = {
            "wer": float(rate), "wer_standard_error": float(deviation),
            "per": per, "per_standard_error": per_deviation,
            "sync": best_sync([row["sync"] for row in rows], [row["frames"] for row in rows])._asdict(),
            "words": int(words.sum()), "seconds": float(sum(row["seconds"] for row in rows)),
            **{measure: best_offset([row[measure] for row in rows], weights)._asdict()
               for measure in ("alignment", "energy")},
            **{name: float(np.mean([row[name] for row in rows]))
               for name in ("similarity", "drift", "colour", "structure", "movement")},
            "real_time_factor": {"median": float(np.median(factors)), "p99": float(np.quantile(factors, 0.99))}
            if factors else None,
        }
    product, truth = out["product"], out["truth"]
    out["wer_rise"] = product["wer"] - truth["wer"]
    out["per_rise"] = product["per"] - truth["per"]
    out["similarity_share"] = product["similarity"] / truth["similarity"]
    out["sync_share"] = {m: product[m]["correlation"] / truth[m]["correlation"] for m in ("alignment", "energy")}
    sets = [features(key) for key in records]
    out["picture_distance"], out["video_distance"] = distances(sets), video_distances(sets)
    return out


def distances(sets: Sequence[dict[str, np.ndarray]]) -> dict[str, float | int]:
    """Fréchet distances to the truth: of the pictures, and of how they differ from their reference pictures."""
    out: dict[str, float | int] = {"pictures": sum(len(s["product"]) for s in sets)}
    for name in ("product", "again"):
        for kind, own in (("", 0.0), ("_from_rest", 1.0)):
            joined = [np.concatenate([s[side] - own * s["rest"] for s in sets]) for side in (name, "truth")]
            out[name + kind] = frechet_distance(*joined)
    return out


def video_distances(sets: Sequence[dict[str, np.ndarray]]) -> dict[str, float | int]:
    """The same of clips of 16 frames, of which nothing but change is seen."""
    joined = {name: np.concatenate([s[f"video_{name}"] for s in sets]) for name in ("product", "truth", "again")}
    return {"clips": len(joined["product"]), "product_of_means": means_part(joined["product"], joined["truth"]),
            **{name: frechet_distance(joined[name], joined["truth"]) for name in ("product", "again")}}


def page_of(summary: dict[str, Any], records: dict[str, dict], folder: Path, settings: dict[str, Any]) -> Page:
    page = Page("Short clips")
    p, t = summary["product"], summary["truth"]
    page.text(f"{summary['clips']} clips, {p['seconds']:.0f} s of the product's speech, {t['seconds']:.0f} s of the "
              f"true voice; model {settings['model']}, {settings['machine']}.")
    page.code(settings["command"])
    sync = lambda side, m: f"{side[m]['correlation']:.3f} at {side[m]['offset']:+d} frames"
    factor, distance, video = p["real_time_factor"], summary["picture_distance"], summary["video_distance"]
    page.table(["measure", "product", "truth", "product / truth"], [
        ["word error rate, %", 100 * p["wer"], 100 * t["wer"], f"rise {100 * summary['wer_rise']:.2f} points"],
        ["± (standard error over clips)", 100 * p["wer_standard_error"], 100 * t["wer_standard_error"], None],
        ["phone error rate (second judge), %", 100 * p["per"], 100 * t["per"],
         f"rise {100 * summary['per_rise']:.2f} points"],
        ["± (standard error over clips)", 100 * p["per_standard_error"], 100 * t["per_standard_error"], None],
        ["mouth against the phones", sync(p, "alignment"), sync(t, "alignment"), summary["sync_share"]["alignment"]],
        ["mouth against the loudness", sync(p, "energy"), sync(t, "energy"), summary["sync_share"]["energy"]],
        ["sync expert: offset, frames", p["sync"]["offset"], t["sync"]["offset"], None],
        ["sync expert: confidence", p["sync"]["confidence"], t["sync"]["confidence"],
         p["sync"]["confidence"] / t["sync"]["confidence"]],
        ["sync expert: distance", p["sync"]["distance"], t["sync"]["distance"], None],
        ["identity similarity to the reference", p["similarity"], t["similarity"], summary["similarity_share"]],
        ["drift meter: distance", p["drift"], t["drift"], p["drift"] / t["drift"]],
        ["drift meter: colour (OKLab)", p["colour"], t["colour"], p["colour"] / t["colour"]],
        ["drift meter: structure", p["structure"], t["structure"], p["structure"] / t["structure"]],
        ["movement: change from frame to frame, 1/255", p["movement"], t["movement"], p["movement"] / t["movement"]],
        ["picture distance to the truth", distance["product"], distance["again"], None],
        ["the same of changes from the reference", distance["product_from_rest"], distance["again_from_rest"], None],
        ["video distance to the truth", video["product"], video["again"], None],
        ["what of it is of the means", video["product_of_means"], None, None],
        ["real-time factor, median / p99", f"{factor['median']:.2f} / {factor['p99']:.2f}", None, None],
    ])
    page.text("Truth is flite's own speech with the studio's drawing, through the same judges. + is a late picture. "
              "Similarity: 1 is the reference picture itself, 0 as far from it as the other characters. Picture "
              f"distance: Fréchet distance on random convolutional features of seed {SEED}, one frame in "
              f"{FEATURE_EVERY}, {distance['pictures']} pictures, in units of the truth's variance; the truth's own is "
              "that of a second performance of the same clips. The characters differ more than any of them moves, so "
              "the second row takes the reference picture's features off each picture's. Video distance: the same on "
              f"random features of change in {video['clips']} clips of {CLIP} frames.")
    page.heading("By clip")
    rate = lambda row: 100 * row["errors"] / max(1, row["words"])
    page.chart({"product, WER %": [(float(k), rate(r["product"])) for k, r in records.items()],
                "true voice, WER %": [(float(k), rate(r["truth"])) for k, r in records.items()]}, x="clip", y="WER, %")
    worst = sorted(records, key=lambda key: -records[key]["product"]["errors"])[:10]
    page.table(["clip", "character", "errors", "true voice's", "text", "heard"],
               [[int(k), records[k]["character"], records[k]["product"]["errors"], records[k]["truth"]["errors"],
                 records[k]["text"], records[k]["product"]["heard"]] for k in worst])
    for key in records:
        if (folder / f"product-{key}.jpg").exists():
            page.heading(f"Clip {key}: {records[key]['character']}, voice {records[key]['voice']}")
            page.text(records[key]["text"])
            page.picture(folder / f"product-{key}.jpg", "the product, every sixth frame; sound and words below")
            page.sound(folder / f"product-{key}.wav", "the product")
            page.picture(folder / f"truth-{key}.jpg", "the studio's truth, every sixth frame")
            page.sound(folder / f"truth-{key}.wav", "flite")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.short_clips", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="mini", help="a shipped model's name or a bundle's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder; what it holds already is not done again")
    parser.add_argument("--clips", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=10, help="of speech, about")
    parser.add_argument("--show", type=int, default=6, help="clips with pictures and sound in the report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--processes", type=int, default=1, help="that work side by side, each on one thread if several")
    args = parser.parse_args(arguments)
    if min(args.clips, args.processes) < 1 or args.seconds < 2:
        parser.error("at least one clip of 2 s, and one process")
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {"model": open_bundle(args.bundle).manifest["digest"], "seconds": args.seconds, "seed": args.seed,
                "judges": [JUDGES, FEATURES]}
    keys = [str(i) for i in range(args.clips)]
    records = resumable.run_in(args.processes, args.out / "clips.jsonl", settings, keys, partial(prepare, args))
    summary = summarize(records, lambda key: dict(np.load(args.out / f"features-{key}.npz")))
    facts = {**settings, "machine": f"{platform.machine()}, {args.processes} processes",
             "command": f"python -m tools.evaluate.short_clips --bundle {args.bundle} --clips {args.clips} "
                        f"--seconds {args.seconds:g} --seed {args.seed}"}
    (args.out / "report.json").write_text(json.dumps({"settings": facts, **summary}, indent=1), encoding="utf-8")
    page_of(summary, records, args.out, facts).save(args.out / "report.html")
    p, t = summary["product"], summary["truth"]
    print(f"WER {p['wer']:.2%} (true voice {t['wer']:.2%}), phone errors {p['per']:.2%} ({t['per']:.2%}), expert's "
          f"confidence {p['sync']['confidence']:.3f} at {p['sync']['offset']:+d} ({t['sync']['confidence']:.3f} at "
          f"{t['sync']['offset']:+d}), sync {p['alignment']['correlation']:.3f} at "
          f"{p['alignment']['offset']:+d} frames ({summary['sync_share']['alignment']:.2f} of the truth's), identity "
          f"{summary['similarity_share']:.3f} of the truth's, movement {p['movement']:.2f} ({t['movement']:.2f})", file=sys.stdout)
    picture, video = summary["picture_distance"], summary["video_distance"]
    print(f"picture distance to the truth {picture['product']:.4f} (a second true performance {picture['again']:.4f}), video "
          f"distance {video['product']:.4f} ({video['again']:.4f}), {video['product_of_means']:.4f} of it of the means", file=sys.stdout)
    print(args.out / "report.html", file=sys.stdout)


if __name__ == "__main__":
    main()
