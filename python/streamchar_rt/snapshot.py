"""Snapshots: a stream at a chunk boundary, to come back to."""
from __future__ import annotations

import os
from typing import Any

from .errors import UnsupportedError


class Snapshot:
    """A stream as it was after a chunk, with the text that waited. Made by ``Session.snapshot``.

    Attributes:
        nbytes: memory that the stream's context takes; shared with the session until it moves on.
    """

    __slots__ = ("nbytes", "stream")

    def __init__(self, stream: Any, nbytes: int) -> None:
        self.stream = stream
        self.nbytes = nbytes

    def to_bytes(self) -> bytes:
        """Not available yet: snapshots live in memory."""
        raise UnsupportedError("snapshots cannot be serialised yet", hint="keep the object, or fork() the session")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Not available yet: snapshots live in memory."""
        raise UnsupportedError("snapshots cannot be saved yet", hint="keep the object, or fork() the session")
