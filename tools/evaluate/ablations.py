"""The paper's ablations at this scale: what each stage, the steps, the sink and the pointer are worth.

    python -m tools.evaluate.ablations --out DIR --clips 12 --teacher T --guided G --stage-one I4 --stage-one-two I2 \\
        --stage-one-one I1 --stage-two II4 --stage-two-alone A --stage-two-one-chunk B --whole-text W

Every flag but ``--out`` names a checkpoint folder: of ``tools.train.denoiser`` (teacher), ``tools.train.guided`` (the
teacher with its guidance folded in), ``tools.train.distill`` with 4, 2 and 1 steps (stage I), ``tools.train.rollout``
(stage II from stage I; from the teacher; with ``--chunks 1``), and ``tools.train.whole_text`` (an orchestrator without
pointer). A row puts its networks into the bundle and says clips of held-out sentences through the product's own run time
and all judges of ``short_clips``. A row whose checkpoint is missing is shown as absent. Rows that are added later join
those in DIR; what is finished is not done again. Writes ablations.jsonl, report.json and report.html to DIR.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from streamchar_rt import pipeline
from streamchar_rt.bundle import Bundle, open_bundle
from tools.evaluate import resumable, short_clips
from tools.evaluate.lip_sync import best_offset
from tools.evaluate.phone_judge import PhoneErrors, rate_of
from tools.evaluate.recognise import Recogniser
from tools.evaluate.report import Page, wav_bytes
from tools.evaluate.sync_expert import best_sync
from tools.evaluate.take import JUDGES, RATE, AblatedEngine, Judges, perform_text, played_characters, true_take, variant
from tools.evaluate.transcripts import clip_texts
from tools.evaluate.whole_text import WholeTextPlan
from tools.studio.cast import CAST
from tools.train.loop import load_weights
from tools.train.whole_text import whole_config

TRUTH = "truth"


@dataclass(frozen=True)
class Row:
    name: str
    flag: str  # whose checkpoint it takes; "" is the bundle as it is
    steps: int = 4
    sinks: int = 1
    pointer: str = "model"  # or "paced", or "whole"
    orchestrator: str = ""


ROWS = (
    Row("teacher, 50 steps", "teacher", 50),
    Row("teacher, 4 steps", "teacher"),
    Row("teacher with guidance, 50 steps", "guided", 50),
    Row("teacher with guidance, 4 steps", "guided"),
    Row("distilled (stage I and II), 4 steps", "stage_two"),
    Row("stage I only, 4 steps", "stage_one"),
    Row("stage I only, 2 steps", "stage_one_two", 2),
    Row("stage I only, 1 step", "stage_one_one", 1),
    Row("stage II only, 4 steps", "stage_two_alone"),
    Row("stage II on one chunk, 4 steps", "stage_two_one_chunk"),
    Row("distilled, without sink", "stage_two", sinks=0),
    Row("distilled, the first three chunks as sinks", "stage_two", sinks=3),
    Row("distilled, text at a fixed pace", "stage_two", pointer="paced"),
    Row("distilled, without pointer: whole text in the window", "stage_two", pointer="whole",
        orchestrator="whole_text"),
    Row("the bundle as it is", ""),
)
FLAGS = tuple(dict.fromkeys(flag for row in ROWS for flag in (row.flag, row.orchestrator) if flag))


def missing(row: Row, folders: dict[str, Path | None]) -> str | None:
    """Why a row is absent; None where it can be measured."""
    for flag in filter(None, (row.flag, row.orchestrator)):
        folder = folders.get(flag)
        if folder is None:
            return f"no --{flag.replace('_', '-')}"
        if not (folder / "checkpoint.pt").exists():
            return f"no checkpoint in {folder}"
    return None


def tensors_of(row: Row, folders: dict[str, Path | None]) -> dict[str, torch.Tensor]:
    """The row's own tensors under a bundle's names."""
    out: dict[str, torch.Tensor] = {}
    if row.flag:
        weights = load_weights(folders[row.flag])
        out |= {k: v for k, v in weights.items() if k.startswith(("dit.", "condition."))}
    if row.orchestrator:
        out |= {f"orchestrator.{k}": v for k, v in load_weights(folders[row.orchestrator]).items()}
    return out


def mark_of(row: Row, folders: dict[str, Path | None]) -> str:
    """Changes with the weights that the row takes, so that results of others are not taken for its own."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors_of(row, folders).items()):
        digest.update(name.encode() + value.contiguous().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


@contextmanager
def engine_of(row: Row, folders: dict[str, Path | None], bundle: str, threads: int | None) -> Iterator[AblatedEngine]:
    """The product's engine with the row's networks and settings; students take Euler's steps, as they were trained."""
    own, plain = tensors_of(row, folders), Bundle.tensors
    opened = open_bundle(bundle)
    changed = {"sampler": {}} if row.flag.startswith("stage") else {}
    if row.orchestrator:
        changed["orchestrator"] = whole_config().to_dict()
    opened = Bundle(opened.folder, {**opened.manifest, "model": {**opened.manifest["model"], **changed}})
    with patch("streamchar_rt.engine.open_bundle", lambda model: opened), \
            patch.object(Bundle, "tensors", lambda self: {**plain(self), **own}):
        engine = AblatedEngine.load(bundle, threads=threads)
    with engine, variant(engine, row.sinks, "paced" if row.pointer == "paced" else "model"):
        if row.pointer != "whole":
            yield engine
            return
        with patch.object(pipeline, "Plan", WholeTextPlan):
            yield engine


class Clips:
    """Says and judges; ``__call__`` does one clip of one row, or of the truth."""

    def __init__(self, args: argparse.Namespace, folders: dict[str, Path | None]) -> None:
        self.args, self.folders = args, folders
        self.judges, self.recogniser = Judges(), Recogniser()
        self.texts = clip_texts(args.clips, args.seconds, args.seed)
        self._row: Row | None = None
        self._context: Any = None
        self.engine: AblatedEngine | None = None

    def use(self, row: Row) -> AblatedEngine:
        if row != self._row:
            self.close()
            self._row, self._context = row, engine_of(row, self.folders, self.args.bundle, self.args.threads)
            self.engine = self._context.__enter__()
        return self.engine

    def close(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._row = self._context = None

    def __call__(self, key: str) -> dict[str, Any]:
        """``key``: "row@mark/number"."""
        name, number = key.rsplit("/", 1)
        name, i = name.rsplit("@", 1)[0], int(number)
        row = next((row for row in ROWS if row.name == name), ROWS[-1])
        engine = self.use(row)
        names, stranger = played_characters(engine)
        character, seed, text = names[i % len(names)], self.args.seed + i, self.texts[i]
        voice = engine.character(character).voice
        truth = true_take(self.judges, CAST[character], voice, text, seed=seed)
        take = truth
        if name != TRUTH:
            # A row that has lost its way through the text may never end.
            longest = 2 + 2 * len(truth.audio) / RATE
            take = perform_text(engine, self.judges, character, text, seed=seed, steps=row.steps, seconds=longest)
        if i < self.args.show:
            (self.args.out / f"{_stem(name)}-{i}.wav").write_bytes(wav_bytes(take.audio))
        drifts = [d.distance for d in take.drifts]
        third = max(1, len(drifts) // 3)
        return {"row": name, "text": text, "drift_rise": float(np.mean(drifts[-third:]) - np.mean(drifts[:third])),
                **short_clips.judge(take, text, truth.said, self.recogniser, stranger, seed)}


def _stem(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def summarize(records: dict[str, dict], names: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """Figures by row, None for one without records."""
    out: dict[str, dict[str, Any] | None] = {}
    for name in names:
        rows = [record for record in records.values() if record["row"] == name]
        if not rows:
            out[name] = None
            continue
        errors, words = (np.array([row[n] for row in rows], float) for n in ("errors", "words"))
        rate = errors.sum() / words.sum()
        per, per_error = rate_of([PhoneErrors(**row["phones"]) for row in rows])
        factors = [f for row in rows for f in row["real_time_factors"]]
        out[name] = {
            "clips": len(rows), "wer": float(rate),
            "wer_standard_error": float(np.sqrt(np.square(errors - rate * words).sum()) / words.sum()),
            "per": per, "per_standard_error": per_error,
            "alignment": best_offset([r["alignment"] for r in rows], [r["track_frames"] for r in rows])._asdict(),
            "sync": best_sync([r["sync"] for r in rows], [r["frames"] for r in rows])._asdict(),
            **{n: float(np.mean([r[n] for r in rows])) for n in ("similarity", "drift", "drift_rise", "movement")},
            "real_time_factor": float(np.median(factors)) if factors else None,
        }
    return out


def page_of(summary: dict[str, Any], absent: dict[str, str], folder: Path, facts: dict[str, Any]) -> Page:
    page = Page("Ablations")
    page.text(f"{facts['clips']} clips of about {facts['seconds']:g} s; codecs, vocoder and, but where told, "
              f"orchestrator of {facts['model']}; {facts['machine']}.")
    page.code(facts["command"])
    body = []
    for name, row in summary.items():
        if row is None:
            body.append([name, f"absent: {absent.get(name, 'not measured')}", *[None] * 9])
            continue
        body.append([name, f"{100 * row['wer']:.2f} ± {100 * row['wer_standard_error']:.2f}",
                     f"{100 * row['per']:.2f} ± {100 * row['per_standard_error']:.2f}",
                     row["alignment"]["correlation"], row["alignment"]["offset"], row["sync"]["confidence"],
                     row["sync"]["offset"], row["similarity"], row["drift"], row["drift_rise"],
                     row["real_time_factor"]])
    page.table(["row", "word errors, %", "phone errors, %", "mouth against the phones", "offset",
                "sync expert: confidence", "offset", "identity similarity", "drift", "drift: last third less first",
                "real-time factor"], body)
    page.text("Truth is flite's own speech with the studio's drawing, through the same judges. Without pointer, the "
              "orchestrator is one that was trained with the turn's whole text in its window.")
    for name in summary:
        for i in range(facts["show"]):
            if (folder / f"{_stem(name)}-{i}.wav").exists():
                page.sound(folder / f"{_stem(name)}-{i}.wav", f"{name}, clip {i}")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.ablations", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="mini", help="the rest of the networks; a shipped model's name or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder; what it holds already is not done again")
    for flag in FLAGS:
        parser.add_argument(f"--{flag.replace('_', '-')}", type=Path, help="checkpoint folder")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10, help="of speech, about")
    parser.add_argument("--show", type=int, default=1, help="clips with sound in the report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(arguments)
    if args.clips < 1 or args.seconds < 2:
        parser.error("at least one clip of 2 s")
    args.out.mkdir(parents=True, exist_ok=True)
    folders = {flag: getattr(args, flag) for flag in FLAGS}
    absent = {row.name: why for row in ROWS if (why := missing(row, folders))}
    settings = {"model": open_bundle(args.bundle).manifest["digest"], "seconds": args.seconds, "seed": args.seed,
                "judges": JUDGES}
    work = Clips(args, folders)
    names = [f"{row.name}@{mark_of(row, folders)}" for row in ROWS if row.name not in absent] + [f"{TRUTH}@"]
    try:
        records = resumable.run(args.out / "ablations.jsonl", settings,
                                [f"{name}/{i}" for name in names for i in range(args.clips)], work)
    finally:
        work.close()
    summary = summarize(records, [*(row.name for row in ROWS), TRUTH])
    named = " ".join(f"--{flag.replace('_', '-')} {folder.name}" for flag, folder in folders.items() if folder)
    facts = {**settings, "clips": args.clips, "show": args.show, "machine": f"{platform.machine()}",
             "command": f"python -m tools.evaluate.ablations --bundle {args.bundle} --clips {args.clips} "
                        f"--seconds {args.seconds:g} --seed {args.seed} {named}".strip()}
    (args.out / "report.json").write_text(
        json.dumps({"settings": facts, "rows": summary, "absent": absent}, indent=1), encoding="utf-8")
    page_of(summary, absent, args.out, facts).save(args.out / "report.html")
    for name, row in summary.items():
        print(f"{name}: absent, {absent.get(name, 'not measured')}" if row is None else
              f"{name}: WER {row['wer']:.2%} ± {row['wer_standard_error']:.2%}, phone errors {row['per']:.2%}, sync "
              f"confidence {row['sync']['confidence']:.3f} at {row['sync']['offset']:+d}, drift {row['drift']:.4f}, "
              f"change {row['drift_rise']:+.4f}")
    print(args.out / "report.html")


if __name__ == "__main__":
    main()
