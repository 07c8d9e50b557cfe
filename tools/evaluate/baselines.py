"""The claim of decoupled orchestration: the product's recipe beside three baselines, and the truth.

    python -m tools.evaluate.baselines --models DIR --orchestrator DIR --out DIR --sentences 20

``--models`` holds a folder a kind, trained by ``tools.train.baselines`` on the same data for the same minutes: product,
monolithic, cascade, causal; the orchestrator is of ``tools.train.orchestrator``, and codecs and vocoder are a bundle's,
whose latents they were trained on. Every kind says the same held-out sentences in one voice, chunk by chunk from its
own past (``baseline_rollout``); all go through the judges of ``short_clips``. A kind without a checkpoint is told to be
absent. What is finished is not done again. Writes baselines.jsonl, report.json and report.html to DIR.
"""
from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamchar_rt.bundle import open_bundle
from streamchar_rt.drift import look_at
from streamchar_rt.models import Models, encode_character
from tools.evaluate import resumable
from tools.evaluate.baseline_rollout import Speaker, Turn, pictures_of, sound_of
from tools.evaluate.contact_sheet import frame_grid
from tools.evaluate.lip_sync import FPS, best_offset, correlations, loudness, spoken_part
from tools.evaluate.phone_judge import PhoneErrors, phone_errors, phones_of, rate_of
from tools.evaluate.recognise import Recogniser
from tools.evaluate.report import Page, wav_bytes
from tools.evaluate.sync_expert import best_sync
from tools.evaluate.take import JUDGES, RATE, Judges, Take, true_take
from tools.evaluate.wer import score
from tools.studio.cast import CAST
from tools.studio.sentences import evaluation_sentences
from tools.studio.speech import VOICE_NAMES, synthesize
from tools.train.baselines import KINDS, load, parameters
from tools.train.loop import load_weights

TRUTH = "truth"
SHOWN_EVERY = 12  # frames


def judge(take: Take, text: str, phones: Sequence[str], recogniser: Recogniser) -> dict[str, Any]:
    """What is said of one sentence; plain values. Nothing but sound and picture is asked for."""
    audio = take.audio
    heard = recogniser(audio)
    edits, words = score(text, heard)
    level = loudness(audio, take.frames)
    part = spoken_part(level)
    return {
        "heard": heard, "errors": edits.errors, "words": words, "seconds": len(audio) / RATE, "frames": take.frames,
        "phones": phone_errors(phones, [p.name for p in take.judges.phones.hear(audio)])._asdict(),
        "energy": correlations(level[part], take.opening[part]), "track_frames": len(level[part]),
        "sync": take.judges.expert.distances(take.seen, audio),
        "drift": float(np.mean([d.distance for d in take.drifts])),
    }


class Sentences:
    """Says and judges; ``__call__`` does one sentence of one kind."""

    def __init__(self, args: argparse.Namespace) -> None:
        from tools.studio.character import Identity, Renderer
        from tools.studio.pose import REST

        self.args, self.judges, self.recogniser = args, Judges(), Recogniser()
        bundle = open_bundle(args.bundle)
        self.models = Models.from_parts(bundle.manifest, bundle.tensors())
        self.digest = bundle.manifest["digest"]
        self.rest = {name: Renderer(Identity.from_seed(seed)).draw(REST) for name, seed in CAST.items()}
        self.nets: dict[str, Speaker] = {}

    def speaker(self, kind: str) -> Speaker:
        if kind not in self.nets:
            self.nets = {kind: Speaker(load(kind, self.args.models / kind), self.planner(kind), self.args.steps)}
        return self.nets[kind]

    def planner(self, kind: str):
        from streamchar_rt.orchestrator.model import Orchestrator
        from tools.train.rollout import Planner

        if kind == "monolithic":
            return None
        orchestrator = Orchestrator()
        orchestrator.load_state_dict(load_weights(self.args.orchestrator))
        return Planner(orchestrator, torch.device("cpu"))

    def __call__(self, key: str) -> dict[str, Any]:
        """``key``: "kind/number"."""
        kind, number = key.split("/")
        i = int(number)
        text, name = evaluation_sentences()[i], list(CAST)[i % len(CAST)]
        speech = synthesize(text, self.args.voice)
        spent = None
        if kind == TRUTH:
            take = true_take(self.judges, CAST[name], self.args.voice, text, seed=i, still_every=SHOWN_EVERY)
        else:
            character = encode_character(self.models, self.rest[name])
            speaker, turn = self.speaker(kind), Turn.of(speech, i)
            begun = time.perf_counter()
            chunks = speaker(turn, character.features[-1], self.args.seed + i)
            audio, frames = sound_of(self.models, chunks), pictures_of(self.models, character, chunks)
            spent = time.perf_counter() - begun
            take = Take(self.judges, look_at(self.rest[name][None]), SHOWN_EVERY)
            take.samples.append(audio[: len(frames) * RATE // FPS])
            take.see(frames)
        if i < self.args.show:
            times, pictures = zip(*take.stills)
            grid = frame_grid(np.stack(pictures), [f"{t:.2f}" for t in times], 12, 128)
            grid.convert("RGB").save(self.args.out / f"{kind}-{i}.jpg", quality=85)
            (self.args.out / f"{kind}-{i}.wav").write_bytes(wav_bytes(take.audio))
        return {"kind": kind, "text": text, "compute": spent, **judge(take, text, phones_of(speech), self.recogniser)}


def summarize(records: dict[str, dict], kinds: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """Figures by kind, None for one that is absent."""
    out: dict[str, dict[str, Any] | None] = {}
    for kind in kinds:
        rows = [record for record in records.values() if record["kind"] == kind]
        if not rows:
            out[kind] = None
            continue
        errors, words = (np.array([row[n] for row in rows], float) for n in ("errors", "words"))
        rate = errors.sum() / words.sum()
        per, per_error = rate_of([PhoneErrors(**row["phones"]) for row in rows])
        factors = [row["compute"] / row["seconds"] for row in rows if row["compute"] is not None]
        out[kind] = {
            "sentences": len(rows), "wer": float(rate),
            "wer_standard_error": float(np.sqrt(np.square(errors - rate * words).sum()) / words.sum()),
            "per": per, "per_standard_error": per_error,
            "energy": best_offset([row["energy"] for row in rows], [row["track_frames"] for row in rows])._asdict(),
            "sync": best_sync([row["sync"] for row in rows], [row["frames"] for row in rows])._asdict(),
            "drift": float(np.mean([row["drift"] for row in rows])),
            "real_time_factor": float(np.median(factors)) if factors else None,
        }
    return out


def trained(folder: Path, kind: str) -> dict[str, Any]:
    """Minutes, iterations and weights of a kind's training."""
    state = torch.load(folder / kind / "checkpoint.pt", map_location="cpu", weights_only=True)
    return {"minutes": state["seconds"] / 60, "iterations": state["iteration"],
            "parameters": parameters(load(kind, folder / kind))}


def page_of(summary: dict[str, Any], training: dict[str, Any], folder: Path, facts: dict[str, Any]) -> Page:
    page = Page("Baselines")
    page.text(f"{facts['sentences']} held-out sentences, voice {facts['voice']}, {facts['steps']} steps; codecs of "
              f"{facts['model']}, {facts['machine']}.")
    page.code(facts["command"])
    truth = summary[TRUTH]

    def cells(kind: str) -> list[Any]:
        row, made = summary[kind], training.get(kind)
        lead = [kind, *([round(made["minutes"], 1), made["iterations"], made["parameters"]] if made else [None] * 3)]
        if row is None:
            return [*lead, "absent: no checkpoint", *[None] * 8]
        energy, sync = row["energy"], row["sync"]
        return [*lead, f"{100 * row['wer']:.1f} ± {100 * row['wer_standard_error']:.1f}",
                f"{100 * row['per']:.1f} ± {100 * row['per_standard_error']:.1f}", energy["correlation"],
                energy["correlation"] / truth["energy"]["correlation"] if truth else None, energy["offset"],
                sync["confidence"], sync["offset"], row["drift"], row["real_time_factor"]]

    page.table(["kind", "minutes trained", "iterations", "weights", "word errors, %", "phone errors, %",
                "mouth against loudness", "share of the truth's", "offset", "sync expert: confidence", "offset",
                "drift meter", "real-time factor"], [cells(kind) for kind in summary])
    page.text("All networks were trained from nothing on the same data with the same optimiser; the weights are those "
              "of the denoiser with what feeds it, beside which all kinds but the monolith use the orchestrator. The "
              "real-time factor is of the plain path that all kinds take, not of the product's run time.")
    for kind in summary:
        for i in range(facts["show"]):
            if (folder / f"{kind}-{i}.jpg").exists():
                page.heading(f"{kind}, sentence {i}")
                page.picture(folder / f"{kind}-{i}.jpg", f"every {SHOWN_EVERY}th frame")
                page.sound(folder / f"{kind}-{i}.wav", kind)
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.baselines", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of the kinds' checkpoint folders")
    parser.add_argument("--orchestrator", type=Path, required=True, help="folder of tools.train.orchestrator")
    parser.add_argument("--bundle", default="mini", help="whose codecs and vocoder decode; a name or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder; what it holds already is not done again")
    parser.add_argument("--sentences", type=int, default=20)
    parser.add_argument("--voice", default="rms", choices=VOICE_NAMES)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--show", type=int, default=2, help="sentences with pictures and sound in the report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    training = {k: trained(args.models, k) for k in KINDS if (args.models / k / "checkpoint.pt").exists()}
    work = Sentences(args)
    settings = {"model": work.digest, "voice": args.voice, "steps": args.steps, "seed": args.seed, "judges": JUDGES,
                "iterations": {kind: made["iterations"] for kind, made in training.items()}}
    keys = [f"{kind}/{i}" for kind in (*training, TRUTH) for i in range(args.sentences)]
    summary = summarize(resumable.run(args.out / "baselines.jsonl", settings, keys, work), (*KINDS, TRUTH))
    facts = {**settings, "sentences": args.sentences, "machine": f"{platform.machine()}, {args.threads} threads",
             "show": args.show,
             "command": f"python -m tools.evaluate.baselines --models DIR --orchestrator DIR --bundle {args.bundle} "
                        f"--sentences {args.sentences} --voice {args.voice} --steps {args.steps} --seed {args.seed}"}
    report = {"settings": facts, "training": training, "rows": summary}
    (args.out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    page_of(summary, training, args.out, facts).save(args.out / "report.html")
    for kind, row in summary.items():
        print(f"{kind:11} absent: no checkpoint" if row is None else
              f"{kind:11} WER {row['wer']:.2%} ± {row['wer_standard_error']:.2%}, phone errors {row['per']:.2%}, "
              f"mouth against loudness {row['energy']['correlation']:.3f} at {row['energy']['offset']:+d}, sync "
              f"confidence {row['sync']['confidence']:.3f} at {row['sync']['offset']:+d}, real-time factor "
              + ("–" if row["real_time_factor"] is None else f"{row['real_time_factor']:.2f}"))
    print(args.out / "report.html")


if __name__ == "__main__":
    main()
