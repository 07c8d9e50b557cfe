"""A session's input in the order in which it took effect: enough to live the same stream again.

The rule: a chunk sees the calls that came before it began, whichever thread made them, and nothing of what comes
while it is made. So the calls and the chunks have one order, and the journal is that order: of the entries
between two ``chunk`` entries, all took effect in the second one. A call that came while a chunk was made stands
behind that chunk, or, where an interrupt stopped the chunk, before the interrupt.
"""
from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from .chunk import Chunk
    from .session import Session

Entry = Mapping[str, Any]
Sink = Callable[[Entry], None]
_CALLS = ("push_text", "cue", "flush", "end_turn", "listen", "rest")


class Journal:
    """Hands entries to ``sink`` in the order of their effect; the first one has the session's ``facts``.

    An entry is a mapping with ``do`` (a name), ``t`` (seconds since the session began) and the call's arguments;
    plain values only, so that it can be written as JSON.
    """

    def __init__(self, sink: Sink, **facts: Any) -> None:
        self._sink = sink
        self._began = time.monotonic()
        self._under_way = False
        self._later: list[Entry] = []  # came while a chunk was under way
        self._streams = 0
        sink(self._entry("session", facts))

    def call(self, name: str, /, **arguments: Any) -> None:
        entry = self._entry(name, arguments)
        if self._under_way:
            self._later.append(entry)
        else:
            self._sink(entry)

    def new_stream(self) -> int:
        """A number for a stream of text whose pieces are drawn later."""
        self._streams += 1
        return self._streams

    def drawn(self, stream: int, piece: str) -> None:
        """A piece was drawn for the chunk under way."""
        self._sink(self._entry("drawn", {"stream": stream, "piece": piece}))

    def begin(self) -> None:
        """A chunk begins: calls from now on take effect after it."""
        self._under_way = True

    def end(self, steps: int | None, digest: str | None = None) -> None:
        """The chunk is done, or was given up (None); 0: there was nothing to do."""
        if steps is not None:
            self._sink(self._entry("chunk", {"steps": steps} if digest is None else {"steps": steps, "digest": digest}))
        self._under_way = False
        later, self._later = self._later, []
        for entry in later:
            self._sink(entry)

    def _entry(self, name: str, arguments: Mapping[str, Any]) -> Entry:
        return {"do": name, "t": round(time.monotonic() - self._began, 4), **arguments}


def replay(session: Session, entries: Iterable[Entry]) -> Iterator[Chunk]:
    """Lives a recorded session again: yields its chunks, those that were cut off before anyone heard them included.

    Args:
        session: a new one, stepped by hand, with the recorded one's model, character, seed and options.

    Raises:
        ConfigError: for an entry that cannot be replayed.
    """
    entries = list(entries)
    pieces: dict[int, list[str]] = {}
    for entry in entries:
        if entry.get("do") == "drawn":
            pieces.setdefault(entry["stream"], []).append(entry["piece"])
    for entry in entries:
        name, arguments = entry.get("do"), {k: v for k, v in entry.items() if k not in ("do", "t")}
        if name == "chunk":
            chunk = session._step_with(arguments["steps"])
            if chunk is not None:
                yield chunk
        elif name == "interrupt":
            session.interrupt(arguments["heard_pts"])
        elif name == "recall":
            session._recall(arguments["pts"])
        elif name == "reset":
            session.interrupt(arguments["pts"])  # chunks that had been made ahead were dropped
            session.reset(seed=arguments["seed"])
        elif name == "hold":
            session._hold(iter(pieces.get(arguments["stream"], [])))
        elif name in _CALLS:
            getattr(session, name)(**arguments)
        elif name == "session":
            session._live.lift_limits(arguments.get("marks"))
        elif name != "drawn":
            raise ConfigError(f"{name!r} cannot be replayed", hint="record a session without restore()")


def chunk_digest(chunk: Chunk) -> str:
    """SHA-256 over a chunk's sound and pictures: 32 hexadecimal digits."""
    found = hashlib.sha256(chunk.audio.tobytes())
    found.update(chunk.video.data if chunk.video.flags.c_contiguous else chunk.video.tobytes())
    return found.hexdigest()[:32]
