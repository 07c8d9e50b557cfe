"""Random lives of a session, to repeat in other circumstances."""
from __future__ import annotations

import hashlib

import numpy as np

from tests.stand_in import WORDS

_TAGS = ("[happy] ", "[pause 0.3] ", "[wave] ", "[sad]", "[neutral] ")
_MARKS = ("", "", "", ",", ".", "!", " -")


def random_schedule(
    rng: np.random.Generator, length: int, chunks: int = 3, extra: tuple[str, ...] = ()
) -> list[tuple]:
    """Calls as (name, *arguments); ``("step", n)`` takes n chunks. Text comes in pieces of words.

    ``extra``: calls without arguments that may come too.
    """
    names = ("push_text", "step", "end_turn", "flush", "cue", "listen", "rest", *extra)
    weights = np.array([40, 30, 8, 6, 6, 5, 5, *[4] * len(extra)])
    calls = []
    for name in rng.choice(names, length, p=weights / weights.sum()):
        if name == "push_text":
            calls.append((str(name), _text(rng)))
        elif name == "step":
            calls.append((str(name), int(rng.integers(1, chunks + 1))))
        elif name == "cue":
            calls.append((str(name), str(rng.choice(["happy", "sad", "wave"]))))
        else:
            calls.append((str(name),))
    return calls


def _text(rng: np.random.Generator) -> str:
    words = rng.choice(sorted(WORDS), int(rng.integers(1, 7)))
    text = " ".join(
        str(rng.choice(_TAGS)) + word if rng.random() < 0.1 else word + str(rng.choice(_MARKS)) for word in words
    )
    text += str(rng.choice(["", " "]))
    return text[: int(rng.integers(1, len(text) + 1))] if rng.random() < 0.3 else text


def perform(session, calls) -> list:
    """Makes the calls; returns the chunks."""
    chunks = []
    for name, *arguments in calls:
        if name == "step":
            chunks += [session.step() for _ in range(arguments[0])]
        else:
            getattr(session, name)(*arguments)
    return chunks


def finish(session, calls) -> list:
    """The same, and everything said to its end, with two chunks after it."""
    chunks = perform(session, [*calls, ("end_turn",)])
    while session.pending_text or not (chunks and chunks[-1].end_of_turn):
        chunks.append(session.step())
    return chunks + perform(session, [("step", 2)])


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def content(chunks) -> list[tuple]:
    """What must repeat, without times of the session's clock and of the computer's."""
    return [
        (
            _digest(c.audio), _digest(c.video), c.mode, c.end_of_turn, c.turn_id,
            [(w.text, w.text_offset, w.begin_pts - c.pts, w.end_pts - c.pts) for w in c.words],
            [(v.id, v.weight, v.begin_pts - c.pts, v.end_pts - c.pts) for v in c.visemes],
        )
        for c in chunks
    ]  # fmt: skip
