"""A long life of a session, with everything that can happen to one, and checks on all of it.

    python -m tools.soak --minutes-of-stream 60 --seed 1

Random pushes of split words, turns, cues, modes, pauses, interrupts, forks, snapshots through bytes and resets, all
from one seed. Checked at every chunk: the clock is continuous and counts the same in sound and picture; words come
in the order of the text, none lost and none doubled; nothing is not finite. Checked at the end: the memory of the
process has not grown by more than one per cent since the first minute of stream. It is read once a minute of stream,
when malloc has given back what is free, for that comes and goes; the growth with it is told, too
(``resident_growth``). Prints one JSON object; the exit status is 1 where a check failed.
"""
from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from streamchar_rt import Chunk, Engine, Session, Snapshot, machine
from streamchar_rt.cli import _clock as time_left

WORDS = "good morning there one two five dollars the river was frozen in May and nobody knew my friend hello".split()
MARKS = ("", "", "", "", ",", ".", "!", "?")
ALLOWED_GROWTH = 0.01
_WORD = re.compile(r"\w+")


class Failure(AssertionError):
    """A check that failed."""


@dataclass
class Soak:
    """One session's life.

    Args:
        engine: with room for two sessions.
        seed: of all that happens.
        minutes: of stream, forks not counted.
    """

    engine: Engine
    seed: int
    minutes: float
    calls: Counter[str] = field(default_factory=Counter)
    samples: int = 0  # of sound that came
    frames: int = 0
    clock: int = 0  # where the next chunk must begin
    floor: int = 0  # the earliest place to cut at: what was before an interrupt, restore or reset is not remembered
    expected: deque[str] = field(default_factory=deque)  # words of the text that have not come
    spoken: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)  # (minute of stream, bytes) after each chunk
    held: list[tuple[float, int]] = field(default_factory=list)  # and once a minute without what malloc keeps
    open_text: str = ""  # of the turn that is open

    def run(self, progress: bool = True) -> dict[str, Any]:
        """Lives it; returns what there is to report.

        Raises:
            Failure: naming the chunk and what was wrong with it.
        """
        self.rng = np.random.default_rng(self.seed)
        rate, begin, said = self.engine.info.sample_rate, time.monotonic(), 0.0
        character = self.engine.characters()[int(self.rng.integers(len(self.engine.characters())))]
        with self.engine.session(character, seed=self.seed) as session:
            while self.samples < self.minutes * 60 * rate:
                self._do_something(session)
                now = time.monotonic()
                if progress and self.memory and now - said > 10:
                    said, (minute, size) = now, self.memory[-1]
                    left = time_left((now - begin) * max(0.0, self.minutes / minute - 1))
                    print(
                        f"{minute:6.1f} of {self.minutes:g} min, {left} left, {size >> 20} MiB, {self.spoken} words",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip
            self._end(session)
        return self._report(time.monotonic() - begin)

    # ------------------------------------------------------------ what happens
    def _do_something(self, session: Session) -> None:
        names = ("push", "step", "end_turn", "flush", "cue", "mode", "pause", "interrupt", "fork", "snapshot", "reset")
        weights = np.array([30, 40, 6, 3, 4, 4, 1, 3, 1, 2, 0.3])
        name = str(self.rng.choice(names, p=weights / weights.sum()))
        self.calls[name] += 1
        getattr(self, f"_{name}")(session)

    def _push(self, session: Session) -> None:
        if len(session.pending_text) > 400:
            return
        words = self.rng.choice(WORDS, int(self.rng.integers(1, 12)))
        text = " ".join(word + str(self.rng.choice(MARKS)) for word in words) + " "
        cuts = sorted(map(int, self.rng.integers(0, len(text), int(self.rng.integers(0, 4)))))
        for a, b in zip([0, *cuts], [*cuts, len(text)]):
            session.push_text(text[a:b])
        self.expected.extend(_WORD.findall(text))

    def _step(self, session: Session, most: int = 4) -> None:
        for _ in range(int(self.rng.integers(1, most + 1))):
            self._check(session.step())

    def _end_turn(self, session: Session) -> None:
        session.end_turn()

    def _flush(self, session: Session) -> None:
        session.flush()

    def _cue(self, session: Session) -> None:
        session.cue(str(self.rng.choice([*self.engine.emotions(), "wave"])), strength=float(self.rng.random()))

    def _mode(self, session: Session) -> None:
        session.listen() if self.rng.random() < 0.5 else session.rest()

    def _pause(self, session: Session) -> None:
        session.pause()
        if session.step() is not None:
            raise Failure("a chunk came while paused")
        session.resume()

    def _interrupt(self, session: Session) -> None:
        back = int(self.rng.integers(0, self.engine.info.chunk_samples))
        receipt = session.interrupt(max(self.floor, self.clock - back))
        dropped = receipt.unspoken_text + " ".join(text for _, text in receipt.dropped_turns)
        self.clock = self.floor = receipt.cut_pts
        if len(_WORD.findall(dropped)) < len(self.expected):
            raise Failure(f"an interrupt at {receipt.cut_pts} lost text: {dropped!r} of {list(self.expected)}")
        self.expected.clear()

    def _fork(self, session: Session) -> None:
        """A fork says what the original would have said, and dies."""
        with session.fork() as child:
            chunk, expected = child.step(), list(self.expected)
            words = [word.text for word in chunk.words]
            if words != expected[: len(words)] or chunk.pts != self.clock:
                raise Failure(f"a fork at {self.clock} said {words} instead of {expected[: len(words)]}")

    def _snapshot(self, session: Session) -> None:
        """There, through bytes, and back; what was lived meanwhile is said again."""
        snapshot = Snapshot.from_bytes(session.snapshot().to_bytes())
        expected = deque(self.expected)
        self._step(session, 2)
        session.restore(snapshot)
        self.expected, self.floor = expected, self.clock

    def _reset(self, session: Session) -> None:
        session.reset(seed=int(self.rng.integers(1 << 40)))
        self.expected.clear()
        self.floor = self.clock

    def _end(self, session: Session) -> None:
        session.end_turn()
        for _ in range(2000):
            if not self.expected and not session.pending_text:
                return
            self._check(session.step())
        raise Failure(f"words that never came: {list(self.expected)[:10]}")

    # ------------------------------------------------------------ what must hold
    def _check(self, chunk: Chunk | None) -> None:
        if chunk is None:
            raise Failure(f"no chunk at {self.clock}")
        info, at = self.engine.info, f"chunk {chunk.index} at {chunk.pts}"
        if chunk.pts != self.clock:
            raise Failure(f"{at} should begin at {self.clock}")
        if chunk.audio.shape != (info.chunk_samples,) or len(chunk.video) != info.chunk_frames:
            raise Failure(f"{at} has {chunk.audio.shape} samples and {len(chunk.video)} frames")
        if not np.isfinite(chunk.audio).all() or np.abs(chunk.audio).max() > 1:
            raise Failure(f"{at} has sound that is not in -1 to 1")
        for word in chunk.words:
            wanted = self.expected.popleft() if self.expected else None
            if word.text != wanted or not chunk.pts <= word.begin_pts < chunk.pts + info.chunk_samples:
                raise Failure(f"{at}: {word} where {wanted!r} should come")
        self.spoken += len(chunk.words)
        self.clock += info.chunk_samples
        self.samples += len(chunk.audio)
        self.frames += len(chunk.video)
        minute = self.samples / info.sample_rate / 60
        self.memory.append((minute, machine.resident_bytes()))
        if int(minute) > len(self.held):
            machine.return_free_memory()
            self.held.append((minute, machine.resident_bytes()))

    def _report(self, seconds: float) -> dict[str, Any]:
        info = self.engine.info
        drift = self.samples * info.fps / info.sample_rate - self.frames
        growth, resident_growth = self._growth(self.held), self._growth(self.memory)
        return {
            "model": self.engine.bundle.name, "seed": self.seed, "minutes": self.samples / info.sample_rate / 60,
            "wall_seconds": round(seconds, 1), "words": self.spoken, "calls": dict(self.calls),
            "av_difference_samples": float(drift), "memory_growth": growth, "resident_growth": resident_growth,
            "memory_bytes": self.memory[-1][1], "peak_bytes": machine.peak_bytes(),
            "passed": drift == 0 and (growth is None or growth <= ALLOWED_GROWTH),
        }  # fmt: skip

    def _growth(self, memory: Sequence[tuple[float, int]]) -> float | None:
        """From the minutes after the first to the last tenth, of medians."""
        early = [size for minute, size in memory if 1 <= minute < 2 + self.minutes / 20]
        late = [size for minute, size in memory if minute > self.minutes * 0.9]
        return statistics.median(late) / statistics.median(early) - 1 if early and late else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes-of-stream", type=float, default=60.0, metavar="M")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="mini")
    parser.add_argument("-q", "--quiet", action="store_true")
    options = parser.parse_args(arguments)
    with Engine.load(options.model, max_sessions=2) as engine:
        soak = Soak(engine, options.seed, options.minutes_of_stream)
        try:
            result = soak.run(progress=not options.quiet)
        except Failure as failure:
            result = {"model": options.model, "seed": options.seed, "passed": False, "failure": str(failure)}
    gc.collect()
    print(json.dumps(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
