"""The long-horizon protocol: transcripts of several minutes, and how everything fares as the minutes pass.

    python -m tools.evaluate.long_horizon --out DIR                              # 8 transcripts of 5 minutes
    python -m tools.evaluate.long_horizon --out DIR --sinks 0                    # the same without the sink chunk
    python -m tools.evaluate.long_horizon --out DIR --pointer paced              # text at a fixed pace, no pointer
    python -m tools.evaluate.long_horizon --out DIR --transcripts 1 --minutes-each 2
    python -m tools.evaluate.long_horizon --out DIR --transcripts 50 --processes 8       # the whole protocol

Each transcript is said as one turn of one session, by the shipped characters in turn, and cut off after the minutes.
Runs of several variants in one folder stand side by side in the report, with the truth: flite's speech of the same
text under the studio's drawing, through the same judges. By minute: WER, phone errors (``phone_judge``), lip sync, the
sync expert's confidence (``sync_expert``), drift, identity, movement. Of the whole: words dropped and repeated, as the
recogniser hears them and as the runtime tells them; how far word ends that are told are from where the recogniser
hears them; jumps of picture and sound at the joins of chunks against those inside. A transcript that is finished is
not done again. Writes long.jsonl, report.json, report.html to DIR.
"""
from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from streamchar_rt.bundle import open_bundle
from streamchar_rt.resync import JUMPED, STALLED
from tools.evaluate import heard_words, resumable
from tools.evaluate.contact_sheet import frame_grid
from tools.evaluate.lip_sync import FPS, correlations, loudness, spoken_part
from tools.evaluate.long_report import page_of, summarize
from tools.evaluate.phone_judge import errors_by_time, phones_of
from tools.evaluate.recognise import Recogniser
from tools.evaluate.report import wav_bytes
from tools.evaluate.seams import frame_seams, sound_seams
from tools.evaluate.similarity import identity_similarity
from tools.evaluate.take import (
    CHUNK_FRAMES, JUDGES, LATENT_FRAMES, POINTERS, AblatedEngine, Judges, Take, perform_text, played_characters,
    true_take, variant,
)
from tools.evaluate.transcripts import committed, long_texts
from tools.evaluate.wer import words_of
from tools.studio.behaviour import perform
from tools.studio.cast import CAST
from tools.studio.pose import COLUMN
from tools.studio.speech import synthesize

CHUNK_SAMPLES = CHUNK_FRAMES * 16_000 // FPS
STILL_SECONDS = 5
MOST_SINKS = 3
HEARD_SECONDS = 15  # of the beginning and of the end that the report plays


def by_minute(take: Take, errors: np.ndarray, begins: np.ndarray, phones: Sequence[str], stranger: float,
              seed: int) -> list[dict[str, Any]]:
    """One dict a minute; a last part that is shorter than half a minute belongs to the minute before.

    Args:
        errors: by expected word.
        begins: seconds at which each expected word begins; NaN counts to the minute of the word before.
        phones: of the text, of which the take says a beginning.
    """
    frames, minute = take.frames, 60 * FPS
    count = max(1, round(frames / minute))
    known = np.where(np.isfinite(begins), begins, -np.inf)
    minutes = np.minimum((np.maximum.accumulate(np.maximum(known, 0)) / 60).astype(int), count - 1)
    audio, opening, jumps = take.audio, take.opening, take.jumps
    track = perform(take.segments, frames, seed=seed)[:, COLUMN["mouth_open"]]
    level = loudness(audio, frames)
    phone_errors, at = errors_by_time(phones, take.judges.phones.hear(audio))
    phone_minutes = np.minimum((at / 60).astype(int), count - 1)
    seen, samples = take.seen, 16_000 // FPS
    rows = []
    for i in range(count):
        begin, end = i * minute, frames if i == count - 1 else (i + 1) * minute
        part = spoken_part(level[begin:end])
        cut = lambda values: values[begin:end][part]
        drifts = take.drifts[-(-begin // CHUNK_FRAMES): -(-end // CHUNK_FRAMES)]
        mine = minutes == i
        row = {"words": int(mine.sum()), "errors": int(errors[mine].sum()),
               "similarity": identity_similarity(drifts, stranger), "movement": float(jumps[max(1, begin):end].mean()),
               "track_frames": len(cut(track)), "alignment": correlations(cut(track), cut(opening)),
               "energy": correlations(cut(level), cut(opening)),
               "phones": int((phone_minutes == i).sum()),
               "phone_errors": int(phone_errors[phone_minutes == i].sum()), "frames": end - begin,
               "sync": take.judges.expert.distances(seen[begin:end], audio[begin * samples: end * samples])}
        for name in ("distance", "colour", "structure"):
            row[name] = float(np.mean([getattr(d, name) for d in drifts]))
        rows.append(row)
    return rows


def judge(take: Take, text: str | None, recogniser: Recogniser, stranger: float, seed: int,
          phones: Sequence[str] | None = None) -> dict[str, Any]:
    """What is said of one take; plain values. ``text``, and its ``phones`` as the true voice says them: of the product;
    None: what the take says of itself is true."""
    if text is None:
        told = [(w, word.begin, word.end) for word in take.words for w in words_of(word.text)]
        expected, begins, ends = (list(column) for column in zip(*told))
        runtime = None
    else:
        say = committed(text, take.words)
        expected, begins, ends = say.expected, say.begins, say.ends
        runtime = {"dropped": say.dropped, "repeated": say.repeated}
    heard = heard_words.listen(recogniser, take.audio)
    names = [word.text for word in heard]
    pairs = heard_words.align(expected, names)
    errors = heard_words.errors_of(pairs, expected, names)
    chunk_seams, latent_seams = frame_seams(take.jumps, CHUNK_FRAMES, LATENT_FRAMES)
    return {
        "minutes": by_minute(take, errors, np.array(begins), take.said if phones is None else phones, stranger, seed),
        "words": len(expected), "seconds": len(take.audio) / 16_000, "heard": " ".join(names),
        "runtime": runtime,
        "dropped": [expected[i] for i in heard_words.dropped(pairs)],
        "repeated": [names[i] for i in heard_words.repeated(pairs, names)],
        "end_times": heard_words.end_times(pairs, expected, ends, heard)._asdict(),
        "frame_seams": chunk_seams.plain, "latent_seams": latent_seams.plain,
        "sound_seams": sound_seams(take.audio, CHUNK_SAMPLES).plain,
        "drift": [round(d.distance, 5) for d in take.drifts],
        "real_time_factor": float(np.median(take.real_time_factors)) if take.real_time_factors else None,
        "events": [name for name, details in take.events if name == "drift" or details.get("kind") in (STALLED, JUMPED)],
    }


class Transcripts:
    """Says and judges the transcripts; ``__call__`` does one of one variant, or of the truth."""

    def __init__(self, engine: AblatedEngine, texts: Sequence[str], folder: Path, *, minutes: float, seed: int) -> None:
        self.engine, self.texts, self.folder, self.seconds, self.seed = engine, texts, folder, 60 * minutes, seed
        self.judges, self.recogniser = Judges(), Recogniser()
        self.names, self.stranger = played_characters(engine)

    def __call__(self, key: str) -> dict[str, Any]:
        """``key``: "variant/number"."""
        kind, number = key.rsplit("/", 1)
        i = int(number)
        text, name, seed = self.texts[i], self.names[i % len(self.names)], self.seed + i
        options = dict(seed=seed, seconds=self.seconds, still_every=STILL_SECONDS * FPS)
        voice = self.engine.character(name).voice
        phones = None
        if kind == "truth":
            take = true_take(self.judges, CAST[name], voice, text, **options)
        else:
            sinks, pointer = settings_of(kind)
            with variant(self.engine, sinks, pointer):
                take = perform_text(self.engine, self.judges, name, text, **options)
            phones = phones_of(synthesize(text, voice))
        stem = key.replace("/", "-")
        times, pictures = zip(*take.stills)
        labels = [f"{t // 60:.0f}:{t % 60:02.0f}" for t in times]
        frame_grid(np.stack(pictures), labels, 12, 128).convert("RGB").save(self.folder / f"{stem}.jpg", quality=85)
        length = HEARD_SECONDS * 16_000
        for part, samples in (("begin", take.audio[:length]), ("end", take.audio[-length:])):
            (self.folder / f"{stem}-{part}.wav").write_bytes(wav_bytes(samples))
        result = judge(take, None if kind == "truth" else text, self.recogniser, self.stranger, seed,
                       phones)
        return {"variant": kind, "character": name, "voice": voice, **result}


def prepare(args: argparse.Namespace, texts: Sequence[str]) -> Transcripts:
    engine = AblatedEngine.load(args.bundle, threads=1 if args.processes > 1 else args.threads)
    return Transcripts(engine, texts, args.out, minutes=args.minutes_each, seed=args.seed)


def variant_name(sinks: int, pointer: str) -> str:
    kept = "no sink" if sinks == 0 else "sink" if sinks == 1 else f"{sinks} sinks"
    return kept + ("" if pointer == "model" else f", {pointer} pointer")


def settings_of(name: str) -> tuple[int, str]:
    """What ``variant_name`` was made of."""
    every = ((sinks, pointer) for sinks in range(MOST_SINKS + 1) for pointer in POINTERS)
    return next(settings for settings in every if variant_name(*settings) == name)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.long_horizon", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="mini", help="a shipped model's name or a bundle's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder; what it holds already is not done again")
    parser.add_argument("--transcripts", type=int, default=8)
    parser.add_argument("--minutes-each", type=float, default=5)
    parser.add_argument("--sinks", type=int, choices=range(MOST_SINKS + 1), default=1,
                        help="how many of a stream's first chunks stay in the context for ever; the product: 1")
    parser.add_argument("--pointer", choices=POINTERS, default="model",
                        help="who says how far the text is spoken: the model, or a fixed pace")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--processes", type=int, default=1, help="that work side by side, each on one thread if several")
    args = parser.parse_args(arguments)
    if min(args.transcripts, args.processes) < 1 or args.minutes_each < 0.2:
        parser.error("at least one transcript of 0.2 minutes, and one process")
    args.out.mkdir(parents=True, exist_ok=True)
    texts = long_texts(args.transcripts, args.minutes_each, args.seed)
    kinds = (variant_name(args.sinks, args.pointer), "truth")
    settings = {"model": open_bundle(args.bundle).manifest["digest"], "minutes": args.minutes_each, "seed": args.seed,
                "judges": JUDGES}
    keys = [f"{kind}/{i}" for i in range(args.transcripts) for kind in kinds]
    resumable.run_in(args.processes, args.out / "long.jsonl", settings, keys, partial(prepare, args, texts))
    records = resumable.records(args.out / "long.jsonl", settings)
    summary = summarize(records)
    facts = {**settings, "machine": f"{platform.machine()}, {args.processes} processes", "transcripts": args.transcripts,
             "words": [len(words_of(text)) for text in texts]}
    (args.out / "report.json").write_text(json.dumps({"settings": facts, **summary}, indent=1), encoding="utf-8")
    page_of(summary, records, args.out, facts).save(args.out / "report.html")
    for kind, row in summary.items():
        print(f"{kind}: WER {row['wer']:.2%}, phone errors {row['per']:.2%}, sync confidence "
              f"{row['sync']['confidence']:.3f} at {row['sync']['offset']:+d}; WER of the last minute less the first "
              f"{100 * row['wer_change']:+.2f} points (trend {100 * row['wer_trend']['a_minute']:+.2f} ± "
              f"{100 * row['wer_trend']['standard_error']:.2f} a minute); drift {row['distance']:.4f}, change "
              f"{row['drift_change']:+.4f}; {row['dropped']} dropped, {row['repeated']} "
              f"repeated of {row['words']} words; seams: picture {row['frame_seam']:.2f}, "
              f"sound {row['sound_seam']:.2f}")
    print(args.out / "report.html", file=sys.stdout)


if __name__ == "__main__":
    main()
