"""A speech corpus on disk: shards of utterances, written in parallel, read memory-mapped.

Shard ``i`` is two files: ``shard_00000.samples.npy``, all samples (int16, 16 kHz) one after another,
and ``shard_00000.npz`` with the arrays named in :data:`_FIELDS`. A shard's content depends only on
(seed, voices, i), so that a run that was stopped goes on where it was, and two runs agree byte for byte.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.studio.sentences import SentenceGenerator
from tools.studio.speech import SAMPLE_RATE, VOICE_NAMES, synthesize, to_tokens

UTTERANCES_PER_SHARD = 100
RATE_RANGE = (0.9, 1.15)
DEFAULT_VOICES = "rms:0.4,slt:0.3,awb:0.2,kal16:0.1"

# name → dtype; per utterance (n,), per token (t,), offsets (n + 1,)
_FIELDS: dict[str, type] = {
    "sample_offsets": np.int64, "token_offsets": np.int64, "unit": np.uint8, "stress": np.uint8,
    "word_start": np.bool_, "word_index": np.int16, "begin": np.float32, "end": np.float32, "voice": np.uint8,
    "rate": np.float32,
}  # fmt: skip


@dataclass(frozen=True)
class Utterance:
    """One utterance; the arrays are views into the shard (the samples memory-mapped, read-only)."""

    text: str
    words: list[str]
    voice: int  # index into VOICE_NAMES
    rate: float
    samples: np.ndarray  # (n,) int16 at 16 kHz
    unit: np.ndarray  # (t,) uint8, transcript units
    stress: np.ndarray  # (t,) uint8
    word_start: np.ndarray  # (t,) bool
    word_index: np.ndarray  # (t,) int16, -1 for pauses
    begin: np.ndarray  # (t,) float32 seconds in the samples
    end: np.ndarray  # (t,) float32 seconds

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class Corpus(Sequence[Utterance]):
    """The utterances of all finished shards, in order. Raises FileNotFoundError if there are none."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._shards = []
        self._samples = []
        self._index: list[tuple[int, int]] = []
        for path in sorted(self.directory.glob("shard_*.npz")):
            with np.load(path) as arrays:
                shard = {name: arrays[name] for name in _FIELDS}
                shard["text"] = json.loads(bytes(arrays["text"]).decode())
                shard["words"] = json.loads(bytes(arrays["words"]).decode())
            self._index += [(len(self._shards), i) for i in range(len(shard["voice"]))]
            self._shards.append(shard)
            self._samples.append(np.load(path.with_suffix("").with_suffix(".samples.npy"), mmap_mode="r"))
        if not self._index:
            raise FileNotFoundError(
                f"no speech in {self.directory}; make some with: "
                f"python -m tools.studio.speech --hours 1 --out {self.directory}"
            )

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Utterance:
        shard_index, i = self._index[index]
        shard = self._shards[shard_index]
        s0, s1 = shard["sample_offsets"][i : i + 2]
        t0, t1 = shard["token_offsets"][i : i + 2]
        tokens = {name: shard[name][t0:t1] for name in ("unit", "stress", "word_start", "word_index", "begin", "end")}
        return Utterance(
            text=shard["text"][i], words=shard["words"][i], voice=int(shard["voice"][i]), rate=float(shard["rate"][i]),
            samples=self._samples[shard_index][s0:s1], **tokens,
        )  # fmt: skip

    @property
    def hours(self) -> float:
        return sum(len(s) for s in self._samples) / SAMPLE_RATE / 3600

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64: samples of each utterance."""
        return np.concatenate([np.diff(shard["sample_offsets"]) for shard in self._shards])


def load_corpus(directory: str | os.PathLike[str]) -> Corpus:
    """Read a corpus, complete or still growing (the shards that are finished now)."""
    return Corpus(directory)


# ---------------------------------------------------------------- writing
@dataclass(frozen=True)
class _Plan:
    directory: Path
    seed: int
    voices: tuple[tuple[str, float], ...]

    def shard_path(self, index: int) -> Path:
        return self.directory / f"shard_{index:05d}.npz"


def _utterance(plan: _Plan, shard: int, i: int) -> dict:
    key = f"{plan.seed}/{shard}/{i}"
    text = SentenceGenerator(key).turn()
    choice = random.Random(key + "/voice")
    voice = choice.choices([v for v, _ in plan.voices], [w for _, w in plan.voices])[0]
    speech = synthesize(text, voice, rate=choice.uniform(*RATE_RANGE))
    tokens, spans = to_tokens(speech)
    return {"speech": speech, "tokens": tokens, "spans": spans}


def _write_shard(job: tuple[_Plan, int]) -> int:
    """Write one shard unless it is there; returns its number of samples."""
    plan, index = job
    path = plan.shard_path(index)
    if path.exists():
        with np.load(path) as arrays:
            return int(arrays["sample_offsets"][-1])
    made = [_utterance(plan, index, i) for i in range(UTTERANCES_PER_SHARD)]
    tokens = [t for u in made for t in u["tokens"]]
    spans = np.array([s for u in made for s in u["spans"]], np.float32)
    columns = {
        "sample_offsets": np.cumsum([0] + [len(u["speech"].samples) for u in made]),
        "token_offsets": np.cumsum([0] + [len(u["tokens"]) for u in made]),
        "unit": [t.unit for t in tokens], "stress": [t.stress for t in tokens],
        "word_start": [t.word_start for t in tokens], "word_index": [t.word_index for t in tokens],
        "begin": spans[:, 0], "end": spans[:, 1],
        "voice": [VOICE_NAMES.index(u["speech"].voice) for u in made], "rate": [u["speech"].rate for u in made],
    }  # fmt: skip
    arrays = {name: np.asarray(columns[name], dtype) for name, dtype in _FIELDS.items()}
    arrays["text"] = _json_bytes([u["speech"].text for u in made])
    arrays["words"] = _json_bytes([u["speech"].words for u in made])
    samples = path.with_suffix("").with_suffix(".samples.npy")
    # The .npz is renamed into place last: a shard that can be seen is whole.
    _replace(samples, lambda file: np.save(file, np.concatenate([u["speech"].samples for u in made])))
    _replace(path, lambda file: np.savez(file, **arrays))
    return int(arrays["sample_offsets"][-1])


def _json_bytes(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _replace(path: Path, write) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        write(file)
    os.replace(partial, path)


def write_corpus(directory: Path, hours: float, seed: int, voices: tuple[tuple[str, float], ...], workers: int) -> None:
    """Write shards until ``hours`` of speech are there; shards already there count and are kept."""
    directory.mkdir(parents=True, exist_ok=True)
    plan = _Plan(directory, seed, voices)
    _check_same_plan(plan)
    target, total, started, fresh = hours * 3600 * SAMPLE_RATE, 0, time.monotonic(), 0
    context = multiprocessing.get_context("spawn")  # flite's voices are per process and must not be forked
    with context.Pool(workers) as pool:
        pending, next_shard = [], 0
        while total < target:
            while len(pending) < workers + 1:
                is_new = not plan.shard_path(next_shard).exists()
                pending.append((pool.apply_async(_write_shard, ((plan, next_shard),)), is_new))
                next_shard += 1
            result, is_new = pending.pop(0)
            samples = result.get()
            total, fresh = total + samples, fresh + samples * is_new
            elapsed = time.monotonic() - started
            left = (target - total) * elapsed / fresh if fresh else 0.0
            print(f"{total / SAMPLE_RATE / 3600:.2f}/{hours:g} h, {max(left, 0.0):.0f} s left", flush=True)
        for result, _ in pending:
            result.get()
    # Shards that were under way when the target was met would make the corpus depend on the workers.
    for extra in range(next_shard - len(pending), next_shard):
        plan.shard_path(extra).unlink()
        plan.shard_path(extra).with_suffix("").with_suffix(".samples.npy").unlink()


def _check_same_plan(plan: _Plan) -> None:
    path = plan.directory / "plan.json"
    wanted = {"seed": plan.seed, "voices": [list(v) for v in plan.voices], "rates": list(RATE_RANGE)}
    if path.exists() and (found := json.loads(path.read_text())) != wanted:
        raise SystemExit(
            f"{plan.directory} holds a corpus made with {found}; choose another --out or the same settings"
        )
    path.write_text(json.dumps(wanted))


def _parse_voices(text: str) -> tuple[tuple[str, float], ...]:
    voices = []
    for item in text.split(","):
        name, _, weight = item.partition(":")
        if name not in VOICE_NAMES:
            raise argparse.ArgumentTypeError(f"unknown voice {name!r}; the voices are {', '.join(VOICE_NAMES)}")
        voices.append((name, float(weight or 1.0)))
    return tuple(voices)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.studio.speech", description="Write a corpus of speech with known truth."
    )
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--voices", type=_parse_voices, default=_parse_voices(DEFAULT_VOICES), help="name:weight,…")
    arguments = parser.parse_args()
    write_corpus(arguments.out, arguments.hours, arguments.seed, arguments.voices, arguments.workers)


if __name__ == "__main__":
    main()
