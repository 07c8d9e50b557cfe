"""Character streams from the speech corpus: turns, pauses and silences on the run time's chunk grid.

    python -m tools.train.streams --speech DIR [DIR ...] --out DIR

A stream is what a session would have produced: utterances of one voice, some following each other inside a
turn, some after a silence. A turn's first sound falls just after the beginning of a chunk, as it does at run
time, where text becomes visible only at chunk boundaries. Everything is on the half-frame grid (20 ms, one mel
frame): the mel, the transcript unit that each half-frame belongs to, and how long that unit has lasted.
"""
from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from streamchar_rt.codecs.mel import HOP, SAMPLE_RATE, log_mel, normalize
from streamchar_rt.orchestrator.units import END, PAUSE_LONG

CHUNK = 32           # half-frames
LEAD = 4             # half-frames by which the mel leads the picture
HEAD = 64 + LEAD     # silence before a stream: room for the audio history
TAIL = 48


@dataclass
class Streams:
    """All streams end to end; every array along one half-frame or one unit axis.

    ``mel`` float16 (T, 80) normalised; ``place`` int32 (T,) index into the unit arrays; ``elapsed`` uint8 (T,);
    ``fraction`` float16 (T,) how far through its unit; ``unit``, ``stress``, ``word_start`` uint8 (U,);
    ``chunks`` int64 (C, 6): first half-frame, voice, first unit of the stream, last visible unit, stream, index.
    """
    mel: np.ndarray
    place: np.ndarray
    elapsed: np.ndarray
    fraction: np.ndarray
    unit: np.ndarray
    stress: np.ndarray
    word_start: np.ndarray
    chunks: np.ndarray

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "mel.npy", self.mel)
        np.savez(folder / "streams.npz", **{k: v for k, v in self.__dict__.items() if k != "mel"})

    @classmethod
    def joined(cls, parts: list["Streams"]) -> "Streams":
        """Several, one after the other; the places of the first stay what they were."""
        chunks, place, frames, units, streams = [], [], 0, 0, 0
        for part in parts:
            chunks.append(part.chunks + np.array([frames, 0, units, units, streams, 0]))
            place.append(part.place + np.int32(units))
            frames, units, streams = frames + len(part.mel), units + len(part.unit), streams + int(part.chunks[:, 4].max()) + 1
        together = {k: np.concatenate([getattr(part, k) for part in parts])
                    for k in ("mel", "elapsed", "fraction", "unit", "stress", "word_start")}
        return cls(place=np.concatenate(place), chunks=np.concatenate(chunks), **together)

    @classmethod
    def load(cls, folder: Path) -> "Streams":
        with np.load(folder / "streams.npz") as data:
            return cls(np.load(folder / "mel.npy", mmap_mode="r"), **{k: data[k] for k in data.files})


@dataclass
class Stream:
    """One stream: samples and the units with their first half-frames."""
    samples: np.ndarray           # float32, whole half-frames
    unit: np.ndarray
    stress: np.ndarray
    word_start: np.ndarray
    begin: np.ndarray             # int64, half-frame at which each unit begins
    visible_from: np.ndarray      # int64, half-frame at which each unit was pushed
    voice: int


def build_stream(utterances: list, rng: np.random.Generator) -> Stream:
    """Join utterances of one voice into a stream."""
    pieces: list[np.ndarray] = []
    unit, stress, word_start, begin, visible = [END], [0], [0], [0], [0]
    now = 0                                                  # half-frames so far

    def silence(count: int) -> None:
        nonlocal now
        pieces.append(np.zeros(count * HOP, np.float32))
        now += count

    silence(HEAD)
    in_turn = False
    for index, u in enumerate(utterances):
        onset = float(u.begin[0])
        if in_turn:
            lead = int(rng.integers(1, 4))
            pushed = now
        else:
            if index:
                silence(int(rng.choice([rng.integers(2, 40), rng.integers(40, 160)])))
            lead = int(rng.integers(2, 7))
            # to the next chunk of the grid; chunks begin at HEAD + k * CHUNK
            silence(-(now - HEAD) % CHUNK)
            pushed = now
        samples = u.samples.astype(np.float32) / 32768.0
        first = int(round(onset * SAMPLE_RATE))
        keep = min(first, lead * HOP)
        samples = np.concatenate([np.zeros(lead * HOP - keep, np.float32), samples[first - keep:]])
        count = -(-len(samples) // HOP)
        samples = np.pad(samples, (0, count * HOP - len(samples)))
        starts = np.round((u.begin - onset) * (SAMPLE_RATE / HOP)).astype(np.int64) + lead
        for j in range(1, len(starts)):                      # every unit lasts at least one half-frame
            starts[j] = max(starts[j], starts[j - 1] + 1)
        count_units = len(starts)
        last_pause = u.unit[-1] == PAUSE_LONG
        next_in_turn = index + 1 < len(utterances) and rng.random() < 0.35
        if last_pause and not next_in_turn and rng.random() < 0.3:
            count_units -= 1                                 # text without a final stop: END takes its silence
        unit += u.unit[:count_units].tolist()
        stress += u.stress[:count_units].tolist()
        word_start += u.word_start[:count_units].astype(int).tolist()
        begin += (now + starts[:count_units]).tolist()
        visible += [pushed] * count_units
        end_at = now + (int(starts[-1]) if count_units < len(starts) else count)
        pieces.append(samples)
        now += count
        in_turn = next_in_turn
        if not next_in_turn:
            unit.append(END)
            stress.append(0)
            word_start.append(0)
            begin.append(max(end_at, begin[-1] + 1))
            visible.append(pushed)
    silence(TAIL + int(rng.integers(0, 60)))
    array = lambda x: np.asarray(x, np.int64)
    return Stream(np.concatenate(pieces), array(unit), array(stress), array(word_start), array(begin), array(visible),
                  int(utterances[0].voice))


def build(corpus, *, seed: int = 0, progress: bool = True) -> Streams:
    rng = np.random.default_rng(seed)
    by_voice: dict[int, list[int]] = {}
    for i in range(len(corpus)):
        by_voice.setdefault(corpus[i].voice, []).append(i)
    groups = []
    for members in by_voice.values():
        at = 0
        while at < len(members):
            size = int(rng.integers(2, 6))
            groups.append(members[at: at + size])
            at += size
    rng.shuffle(groups)
    parts: dict[str, list[np.ndarray]] = {k: [] for k in ("mel", "place", "elapsed", "fraction", "unit", "stress", "word_start", "chunks")}
    frames = units = 0
    began = time.monotonic()
    for number, group in enumerate(groups):
        s = build_stream([corpus[i] for i in group], rng)
        length = len(s.samples) // HOP
        mel = normalize(log_mel(torch.from_numpy(s.samples))).numpy().astype(np.float16)
        starts = np.append(s.begin, length)
        place = np.searchsorted(s.begin, np.arange(length), side="right") - 1
        elapsed = np.arange(length) - starts[place]
        fraction = (elapsed + 0.5) / np.maximum(1, starts[place + 1] - starts[place])
        rows = []
        for k, at in enumerate(range(HEAD, length - CHUNK - 8, CHUNK)):
            # Units pushed by now; the END that is last in sight closes the text while more is unknown.
            seen = int(np.searchsorted(s.visible_from, at, side="right")) - 1
            rows.append((frames + at, s.voice, units, units + seen, number, k))
        for name, value in (("mel", mel), ("place", (place + units).astype(np.int32)),
                            ("elapsed", np.minimum(elapsed, 255).astype(np.uint8)),
                            ("fraction", fraction.astype(np.float16)), ("unit", s.unit.astype(np.uint8)),
                            ("stress", s.stress.astype(np.uint8)), ("word_start", s.word_start.astype(np.uint8)),
                            ("chunks", np.asarray(rows, np.int64).reshape(-1, 6))):
            parts[name].append(value)
        frames += length
        units += len(s.unit)
        if progress and number % 200 == 0:
            done = (number + 1) / len(groups)
            left = (time.monotonic() - began) * (1 - done) / done
            print(f"streams {number + 1}/{len(groups)}, {left:.0f} s left", flush=True)
    return Streams(**{k: np.concatenate(v) for k, v in parts.items()})


def _build_folder(speech: Path, seed: int) -> Streams:
    from tools.studio.corpus import load_corpus
    torch.set_num_threads(1)
    return build(load_corpus(speech), seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech", type=Path, nargs="+", required=True, help="folders of tools.studio.speech")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes; a folder is one's work")
    args = parser.parse_args()
    work = [(speech, args.seed + i) for i, speech in enumerate(args.speech)]
    with multiprocessing.get_context("spawn").Pool(min(args.workers, len(work))) as pool:
        streams = Streams.joined(pool.starmap(_build_folder, work, chunksize=1))
    streams.save(args.out)
    print(f"{len(streams.chunks)} chunks, {len(streams.mel) / 180000:.2f} h")


if __name__ == "__main__":
    main()
