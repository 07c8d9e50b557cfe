"""What the making of a chunk hands about: the job, what comes of it, and where a fork goes on."""
from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from .chunk import Chunk
from .config import Mode
from .stream import Stream

Event = tuple[str, dict[str, Any]]


@dataclass(eq=False)
class Job:
    """A chunk under way."""

    epoch: int
    stream: Stream
    rest: Mode
    steps: int
    begin: float
    thread: int = field(default_factory=threading.get_ident)
    mode: Mode = Mode.IDLE
    style: tuple[int, int, int] = (0, 0, 0)  # the model's indices of voice, emotion and mode
    generates: bool = True  # False: the last picture is held
    computing: bool = False
    outdated: bool = False  # text has come that need not wait until this chunk of rest is heard
    at_rest: bool = False  # nothing is spoken, held or about to take effect, neither when it begins nor in it
    waited: int = 0  # the queue's patience when it began
    events: list[Event] = field(default_factory=list)

    @property
    def rests(self) -> bool:
        """Whether nobody misses the chunk if text takes its place; known once it is planned."""
        return self.at_rest and not self.events


@dataclass(frozen=True)
class Ready:
    """A finished chunk, and the events that belong to it."""

    chunk: Chunk
    events: tuple[Event, ...]
    rests: bool  # nobody misses it if text takes its place


@dataclass(frozen=True)
class Origin:
    """Where a forked session begins."""

    stream: Stream
    rest: Mode
    index: int
    clock: int
    playback_pts: int
