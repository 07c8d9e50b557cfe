"""Are word times true? When the product says that a word ends, beside when it is heard to end in the product's sound.

    python -m tools.evaluate.word_times --out DIR          # 60 sentences and a hard set; begin again and it goes on
    python -m tools.evaluate.word_times --out DIR --voice slt --sentences 20

Heard is what forced alignment says (``aligner``: pocketsphinx, steps of 10 ms). Its own error is in the row beside: the
same alignment of flite's speech of the same text against flite's own times. Two times are judged of the product:

- told: ``chunk.words``, as an application gets them. A word that goes on into the next chunk has an estimated end.
- pointer: where the orchestrator's pointer left the word, known a chunk later. What it differs from the heard end by
  is the model's and the clock's; what "told" adds to that is the estimate.

A third measure wants no ears (the paper's): the orchestrator alone, chunk by chunk with the true past of the studio's
speech, against flite's times: where the pointer stands at a chunk's end, and when it leaves the words that end there.

+ is late. Writes words.jsonl, report.json and report.html, which needs nothing else, to DIR.
"""
from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from streamchar_rt.codecs.mel import log_mel, normalize
from streamchar_rt.models import Models, Style
from streamchar_rt.orchestrator.condition import LONGEST
from streamchar_rt.orchestrator.transcript import Transcript
from streamchar_rt.orchestrator.units import UNIT_NAMES, is_phone
from streamchar_rt.planner import Plan, align, read
from tools.evaluate import resumable
from tools.evaluate.aligner import Aligner, SpokenWord
from tools.evaluate.heard_words import HeardWord
from tools.evaluate.lip_sync import AlignedEngine
from tools.evaluate.report import Page, wav_bytes
from tools.evaluate.sound_only import sound_only
from tools.studio.speech import VOICE_NAMES, Speech, synthesize, to_tokens
from tools.train.streams import CHUNK, HEAD, build_stream

RATE = 16_000
STEP = 0.02  # seconds, of the pointer
GOALS = (("now", 0.06, 0.2), ("later", 0.04, 0.12))  # name, median and 95th percentile of the error's size, seconds
EVERYDAY = "everyday"
#: Texts that are hard to time. A tuple is pushed piece by piece, two chunks apart.
HARD: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "repeated": (
        "It was very very very cold.", "No, no, no, not again.", "Bye bye, bye bye, and good night.",
        "Again and again and again they came back.", "The dog saw the dog that saw the dog."),
    "numbers": (
        "The bill was $42.50 on 12 March 1998.", "Room 101 has 24 chairs and 3 tables.",
        "He was born in 1875 and died in 1952.", "It is 20 degrees and 9 people are here.",
        "Add 7, 11 and 13 to get 31."),
    "pauses": (
        "Wait. [pause 1] Now we can go.", "One, [pause 0.5] two, [pause 0.5] three.",
        "Well... I do not know; perhaps, after all, it is late.", "Stop! [pause 2] Look at the sky.",
        "Yes. No. Maybe. We will see."),
    "late": (
        ("The train to ", "the old city ", "will leave ", "in ten minutes."),
        ("I will tell you ", "what happened ", "when the storm ", "came over the hill."),
        ("Good morning. ", "My name ", "is written ", "on the door."),
        ("She looked at ", "the blue ", "boat and ", "smiled."),
        ("There is no ", "reason to ", "wait any ", "longer.")),
}  # fmt: skip


# ------------------------------------------------------------------ what is said
class WrittenSpan(NamedTuple):
    """A written word: "$5" is one, though it is spoken as two."""

    text: str
    offset: int
    spoken: tuple[SpokenWord, ...]


def written_words(transcript: Transcript, text: str) -> list[WrittenSpan]:
    """The words of a turn, with the phones that the front end gives them."""
    updates = [transcript.push(text), transcript.end_turn()]
    phones = [UNIT_NAMES[token.unit] for update in updates for token in update.tokens if is_phone(token.unit)]
    words, at = [], 0
    for word in (word for update in updates for word in update.words):
        words.append((word, SpokenWord(word.text, tuple(phones[at: at + word.num_tokens]))))
        at += word.num_tokens
    return [WrittenSpan(text[begin:end], begin, tuple(spoken for _, spoken in group))
            for (begin, end), group in groupby(words, lambda pair: (pair[0].char_begin, pair[0].char_end))]


class ToldWord(NamedTuple):
    offset: int
    begin: float  # seconds
    end: float
    chunk_end: float  # of the chunk that told it


@dataclass
class Said:
    """A turn of the product."""

    samples: np.ndarray
    told: list[ToldWord]
    spans: list[tuple[float, float]]  # seconds, of each phone in order, by the pointer


def say(engine: AlignedEngine, voice: str, pieces: Sequence[str], seed: int) -> Said:
    """One turn of a new session; between two pieces of text, two chunks are generated."""
    engine.spoken.clear()
    chunks: list[Any] = []
    with sound_only(), engine.session(engine.character(engine.characters()[0], voice=voice), seed=seed) as session:
        for piece in pieces[:-1]:
            session.push_text(piece)
            chunks += [session.step() for _ in range(2)]
        session.push_text(pieces[-1])
        session.end_turn()
        chunks += session.turn()
    told = [ToldWord(w.text_offset, w.begin_pts / RATE, w.end_pts / RATE, chunk.pts / RATE + chunk.duration)
            for chunk in chunks for w in chunk.words]
    return Said(np.concatenate([c.audio for c in chunks]), told, phone_spans(engine.spoken, engine.audio_lead))


def phone_spans(spoken: Sequence[tuple[int, int, int]], lead: int) -> list[tuple[float, float]]:
    """Seconds of each phone, from the half-frames (place, unit, ...) of a stream that begins ``lead`` of them late."""
    spans, at = [], lead
    for (_, unit), run in groupby(spoken, lambda entry: entry[:2]):
        length = len(list(run))
        if is_phone(unit):
            spans.append((at * STEP, (at + length) * STEP))
        at += length
    return spans


def heard_spans(words: Sequence[WrittenSpan], heard: Sequence[HeardWord]) -> list[tuple[float, float]]:
    """Seconds at which each written word is heard, from those of its spoken ones."""
    spans, at = [], 0
    for word in words:
        part = heard[at: at + len(word.spoken)]
        spans.append((part[0].begin, part[-1].end))
        at += len(word.spoken)
    return spans


def rows_of(words: Sequence[WrittenSpan], said: Said, heard: Sequence[HeardWord]) -> list[dict[str, Any]]:
    """All times of each written word that was told."""
    told = {word.offset: word for word in said.told}
    rows, at = [], 0
    for word, (begin, end) in zip(words, heard_spans(words, heard)):
        count = sum(len(spoken.phones) for spoken in word.spoken)
        phones = said.spans[at: at + count]
        at += count
        if len(phones) == count and word.offset in told:
            mine = told[word.offset]
            rows.append({"text": word.text, "told": [mine.begin, mine.end], "pointer": [phones[0][0], phones[-1][1]],
                         "heard": [begin, end], "goes_on": phones[-1][1] > mine.chunk_end + 1e-6})
    return rows


# ------------------------------------------------------------------ the judge's own error
def judge_rows(aligner: Aligner, speech: Speech) -> list[dict[str, Any]] | None:
    """The same alignment of the true voice, against its own times; None where it does not fit."""
    words: dict[int, list[Any]] = {}
    for phone in speech.phones:
        if phone.word_index >= 0:
            words.setdefault(phone.word_index, []).append(phone)
    spoken = [SpokenWord(speech.words[i], tuple(p.name for p in phones)) for i, phones in words.items()]
    heard = aligner(speech.samples, spoken)
    return None if heard is None else [
        {"text": h.text, "true": [phones[0].begin, phones[-1].end], "heard": [h.begin, h.end]}
        for h, phones in zip(heard, words.values())]


# ------------------------------------------------------------------ the pointer with the true past
class _Sight:
    """A stream's units as a plan asks for them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def window(self, first: int, count: int) -> np.ndarray:
        index = first + np.arange(count)
        inside = (index >= 0) & (index < len(self.rows))
        return np.where(inside[:, None], self.rows[np.clip(index, 0, len(self.rows) - 1)], 0)  # 0 is PAD


@torch.inference_mode()
def taught(models: Models, speech: Speech, seed: int) -> dict[str, list[float]]:
    """The plans of a sentence's chunks, each made of the true past.

    Returns:
        ``places``: units by which the pointer is wrong at the end of each chunk that speech goes through;
        ``ends``: seconds by which it leaves each word too late or too early, in the chunk in which the word truly ends.
        It is not looked at beyond a plan's end, 0.16 s behind its chunk.
    """
    tokens, spans = to_tokens(speech)
    column = lambda name: np.array([getattr(token, name) for token in tokens])
    stream = build_stream([SimpleNamespace(
        samples=speech.samples, unit=column("unit"), stress=column("stress"), word_start=column("word_start"),
        begin=np.array([span[0] for span in spans]), voice=VOICE_NAMES.index(speech.voice))],
        np.random.default_rng(seed))
    mel = normalize(log_mel(torch.from_numpy(stream.samples)))
    rows = np.stack([stream.unit, stream.stress, stream.word_start], 1)
    place = np.searchsorted(stream.begin, np.arange(len(mel)), side="right") - 1
    words = np.array([-1, *column("word_index"), -1])[: len(rows)]  # by unit; a stream begins and ends with an END
    last = [i for i in range(len(rows) - 1) if words[i] >= 0 and words[i + 1] != words[i]]
    config, condition = models.orchestrator.config, models.condition.config
    generator = torch.Generator().manual_seed(seed)
    out: dict[str, list[float]] = {"places": [], "ends": []}
    for at in range(HEAD, len(mel) - CHUNK - config.lookahead, CHUNK):
        spoken = [i for i in last if at <= stream.begin[i + 1] < at + CHUNK]
        if not spoken and rows[place[at + CHUNK - 1], 0] == rows[0, 0]:
            continue
        before = int(place[at - 1])
        elapsed = min(int(at - 1 - stream.begin[before]), LONGEST)
        state = SimpleNamespace(models=models, pointer=before, units=_Sight(rows), elapsed=elapsed, holds={}, stalled=False,
                                history=mel[at - 2 * config.history_tokens: at],
                                past=np.tile([1, 0, 0, LONGEST], (condition.past, 1)))
        plan = Plan(state, Style(stream.voice))
        plan.states = read(models, [plan])[0]
        noise = torch.randn(1, config.slots, config.mel_bins, generator=generator)
        plan.follow(align(models, [plan.states], [noise], 0.0)[0])
        path = plan.first + plan.path
        out["places"].append(float(path[CHUNK - 1] - place[at + CHUNK - 1]))
        out["ends"] += [float(at + (path <= i).sum() - stream.begin[i + 1]) * STEP for i in spoken]
    return out


# ------------------------------------------------------------------ figures
def figures(errors: Iterable[float]) -> dict[str, float]:
    """Of errors in seconds: how many, mean and median with their sign, median and 95th percentile of their size."""
    errors = np.array(list(errors), np.float64)
    if not len(errors):
        return {"words": 0, **dict.fromkeys(("mean", "signed_median", "median", "p95", "within_100_ms"), float("nan"))}
    size = np.abs(errors)
    return {"words": len(errors), "mean": float(errors.mean()), "signed_median": float(np.median(errors)),
            "median": float(np.median(size)), "p95": float(np.quantile(size, 0.95)),
            "within_100_ms": float((size < 0.1).mean())}


def errors_of(rows: Iterable[dict[str, Any]], name: str, side: int = 1) -> list[float]:
    """What ``name`` says less what is heard; ``side``: 0 for beginnings, 1 for ends."""
    return [row[name][side] - row["heard"][side] for row in rows]


def summarize(records: dict[str, dict]) -> dict[str, Any]:
    """By set of texts: told and pointer, the judge beside them."""
    out: dict[str, Any] = {}
    for name, group in groupby(records.items(), lambda item: item[0].split("/")[0]):
        every = [record for _, record in group]
        rows = [row for record in every for row in record["product"] or ()]
        true = [row for record in every for row in record["judge"] or ()]
        out[name] = {
            "texts": len(every), "not_aligned": sum(record["product"] is None for record in every),
            "words": sum(record["words"] for record in every),
            "told": figures(errors_of(rows, "told")), "pointer": figures(errors_of(rows, "pointer")),
            "told_whole": figures(errors_of((r for r in rows if not r["goes_on"]), "told")),
            "told_going_on": figures(errors_of((r for r in rows if r["goes_on"]), "told")),
            "estimate": figures(r["told"][1] - r["pointer"][1] for r in rows if r["goes_on"]),
            "begins": figures(errors_of(rows, "told", 0)),
            "judge": figures(errors_of(true, "true")), "judge_begins": figures(errors_of(true, "true", 0)),
        }
    taught_by = [record["taught"] for record in records.values() if record["taught"] is not None]
    places = np.array([p for t in taught_by for p in t["places"]])
    out["taught"] = {"ends": figures(e for t in taught_by for e in t["ends"]), "chunks": len(places),
                     "place_mean": float(places.mean()) if len(places) else float("nan"),
                     "place_median": float(np.median(np.abs(places))) if len(places) else float("nan"),
                     "place_p95": float(np.quantile(np.abs(places), 0.95)) if len(places) else float("nan"),
                     "place_exact": float((places == 0).mean()) if len(places) else float("nan")}
    return out


# ------------------------------------------------------------------ the report
def page_of(summary: dict[str, Any], records: dict[str, dict], folder: Path, settings: dict[str, Any]) -> Page:
    page = Page("Word times")
    page.text(f"{len(records)} texts, voice {settings['voice']}; model {settings['model']}, {settings['machine']}.")
    page.code(settings["command"])
    goals = "; ".join(f"{name} {1000 * median:.0f} / {1000 * p95:.0f} ms" for name, median, p95 in GOALS)
    page.text(f"Goals of the size of word ends' error, median / 95th percentile: {goals}. + is told late.")
    sets = [name for name in summary if name != "taught"]
    line = lambda title, f: [title, f["words"], 1000 * f["median"], 1000 * f["p95"], 1000 * f["mean"],
                             1000 * f["signed_median"], 100 * f["within_100_ms"]]
    header = ["words", "median size", "95th percentile", "mean", "median, signed", "within 100 ms, %"]
    titles = {"told": "told (chunk.words)", "told_whole": "… whose end was known", "told_going_on": "… which went on",
              "pointer": "pointer", "estimate": "estimated ends against the pointer's", "judge": "the judge's own error",
              "begins": "beginnings: told", "judge_begins": "beginnings: the judge's own"}
    for name in sets:
        found = summary[name]
        page.heading(f"{name}: {found['texts']} texts, {found['words']} words")
        page.table(["ends, ms", *header], [line(title, found[key]) for key, title in titles.items()])
        if found["not_aligned"]:
            page.text(f"{found['not_aligned']} texts could not be aligned with what was said.")
    rows = {name: [r for key, record in records.items() if key.split("/")[0] == name for r in record["product"] or ()]
            for name in sets}
    true = [r for record in records.values() for r in record["judge"] or ()]
    curves = {f"{name}, told": errors_of(rows[name], "told") for name in sets if rows[name]}
    curves["judge's own"] = errors_of(true, "true")
    page.heading("How many words are within …")
    bounds = np.arange(0, 0.31, 0.01)
    page.chart({name: [(1000 * b, 100 * float((np.abs(errors) <= b).mean())) for b in bounds]
                for name, errors in curves.items() if len(errors)}, x="ms", y="words, %")
    found = summary["taught"]
    page.heading("The pointer with the true past")
    page.text("The orchestrator alone on the studio's speech of the same sentences, one chunk at a time with the true "
              "sound before it, against flite's times.")
    page.table(["ends, ms", *header], [line("pointer", found["ends"])])
    page.table(["chunks", "median error of the end's index, units", "95th percentile", "mean", "exact, %"],
               [[found["chunks"], found["place_median"], found["place_p95"], found["place_mean"],
                 100 * found["place_exact"]]])
    page.heading("The farthest off")
    worst = sorted(((key, r) for key, record in records.items() for r in record["product"] or ()),
                   key=lambda pair: -abs(pair[1]["told"][1] - pair[1]["heard"][1]))[:20]
    page.table(["text", "word", "told end, s", "pointer's", "heard", "told less heard, ms"],
               [[key, r["text"], r["told"][1], r["pointer"][1], r["heard"][1],
                 1000 * (r["told"][1] - r["heard"][1])] for key, r in worst])
    for key, record in records.items():
        path = folder / f"{key.replace('/', '-')}.wav"
        if path.exists():
            page.sound(path, f"{key}: {record['text']}")
    return page


# ------------------------------------------------------------------ all texts
class Texts:
    """Says and judges the texts; ``__call__`` does one."""

    def __init__(self, engine: AlignedEngine, texts: dict[str, tuple[str, ...]], folder: Path, *, voice: str,
                 seed: int) -> None:
        self.engine, self.texts, self.folder, self.voice, self.seed = engine, texts, folder, voice, seed
        self.aligner = Aligner()

    def __call__(self, key: str) -> dict[str, Any]:
        pieces = self.texts[key]
        text = "".join(pieces)
        words = written_words(self.engine.transcripts(tags=True)(), text)
        said = say(self.engine, self.voice, pieces, self.seed)
        heard = self.aligner(said.samples, [spoken for word in words for spoken in word.spoken])
        everyday = key.startswith(EVERYDAY)
        speech = synthesize(" ".join(word.text for word in words) if "[" in text else text, self.voice)
        if not everyday:
            (self.folder / f"{key.replace('/', '-')}.wav").write_bytes(wav_bytes(said.samples))
        return {"text": text, "words": len(words),
                "product": None if heard is None else rows_of(words, said, heard),
                "judge": judge_rows(self.aligner, speech),
                "taught": taught(self.engine.models, speech, self.seed) if everyday else None}


def all_texts(sentences: int) -> dict[str, tuple[str, ...]]:
    """By key, the pieces in which each is pushed."""
    from tools.studio.sentences import evaluation_sentences

    hard = {f"{name}/{i}": text for name, texts in HARD.items() for i, text in enumerate(texts)}
    every = {**{f"{EVERYDAY}/{i}": text for i, text in enumerate(evaluation_sentences()[:sentences])}, **hard}
    return {key: (text,) if isinstance(text, str) else text for key, text in every.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.word_times", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="mini", help="a shipped model's name or a bundle's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder; what it holds already is not done again")
    parser.add_argument("--voice", default="rms", choices=VOICE_NAMES)
    parser.add_argument("--sentences", type=int, default=60, help="of the evaluation set")
    parser.add_argument("--hard", action=argparse.BooleanOptionalAction, default=True,
                        help="repeated words, numbers, pauses, text that comes late")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(arguments)
    if args.sentences < 1:
        parser.error("at least one sentence")
    args.out.mkdir(parents=True, exist_ok=True)
    texts = {key: pieces for key, pieces in all_texts(args.sentences).items() if args.hard or key.startswith(EVERYDAY)}
    with AlignedEngine.load(args.bundle, threads=args.threads) as engine:
        settings = {"model": engine.bundle.manifest["digest"], "voice": args.voice, "seed": args.seed}
        work = Texts(engine, texts, args.out, voice=args.voice, seed=args.seed)
        records = resumable.run(args.out / "words.jsonl", settings, list(texts), work)
        machine = f"{platform.machine()}, {engine.threads} threads"
    summary = summarize(records)
    facts = {**settings, "machine": machine,
             "command": f"python -m tools.evaluate.word_times --bundle {args.bundle} --voice {args.voice} --sentences "
                        f"{args.sentences} --seed {args.seed}" + ("" if args.hard else " --no-hard")}
    (args.out / "report.json").write_text(json.dumps({"settings": facts, **summary}, indent=1), encoding="utf-8")
    page_of(summary, records, args.out, facts).save(args.out / "report.html")
    for name, found in summary.items():
        if name == "taught":
            continue
        each = "; ".join(f"{key} {1000 * f['median']:.0f} / {1000 * f['p95']:.0f} ms, mean {1000 * f['mean']:+.0f}"
                         for key, f in ((key, found[key]) for key in ("told", "pointer", "judge")))
        print(f"{name}: word ends, size's median / 95th percentile: {each} ({found['told']['words']} of "
              f"{found['words']} words)")
    ends = summary["taught"]["ends"]
    print(f"pointer with the true past: {1000 * ends['median']:.0f} / {1000 * ends['p95']:.0f} ms, mean "
          f"{1000 * ends['mean']:+.0f}; end index exact in {summary['taught']['place_exact']:.0%} of "
          f"{summary['taught']['chunks']} chunks; {args.out / 'report.html'}", file=sys.stdout)


if __name__ == "__main__":
    main()
