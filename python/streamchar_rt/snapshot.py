"""Snapshots: a stream at a chunk boundary, to come back to, in memory or from a file."""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import __version__
from .config import Mode, SessionConfig
from .errors import ConfigError, OutputError, SnapshotError
from .snapshot_format import pack, unpack

if TYPE_CHECKING:
    from .character import Character
    from .engine import Engine
    from .stream import Stream

_MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, RecursionError)


class Snapshot:
    """A stream as it was after a chunk, with the text that waited. Made by ``Session.snapshot``.

    A session that is restored from it goes on byte for byte as the original would have, given the same
    ``SessionConfig``, build of this package and kind of processor. ``save`` and ``load`` carry it to another
    process: see ``snapshot_format`` for the file.

    Attributes:
        nbytes: memory that the stream's context takes, shared with the session until it moves on; of a loaded
            one the file's size.
        config: of the session it was taken from, without ``record``; ``engine.session(character, snapshot.config)``
            makes a like one.
        character: the character's name.
        mode: what the character does while nothing is spoken.
    """

    __slots__ = ("nbytes", "config", "character", "mode", "_stream", "_engine", "_identity", "_file", "_name")

    def __init__(
        self, stream: Stream, nbytes: int, engine: Engine, character: Character, config: SessionConfig, mode: Mode
    ) -> None:
        self.nbytes = nbytes
        self.config = dataclasses.replace(config, record=None)
        self.character = character.name
        self.mode = mode
        self._stream: Stream | None = stream
        self._engine: Engine | None = engine
        self._identity = _identity(engine, character)
        self._file: tuple[dict[str, Any], list[Any]] | None = None
        self._name = "the snapshot"

    def to_bytes(self) -> bytes:
        """The snapshot as a file's content."""
        header, arrays = self._file or self._written()
        return pack(header, arrays)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the snapshot to a file. One that is there is replaced at the end, never left half written.

        Raises:
            OutputError: where ``path`` cannot be written.
        """
        path = Path(path)
        part = path.with_name(path.name + ".part")
        try:
            part.write_bytes(self.to_bytes())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OutputError(f"{path} cannot be written: {error.strerror}", hint="choose another folder") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what ``save`` wrote. Which model and character it is of is checked by ``Session.restore``.

        Raises:
            SnapshotError: where the file is missing, no snapshot, damaged or of another version.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise SnapshotError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
        return cls._opened(data, os.fspath(path))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The same from ``to_bytes``'s result.

        Raises:
            SnapshotError: where it is no snapshot, damaged or of another version.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ConfigError(f"{type(data).__name__} is not bytes", hint="give what to_bytes() returned")
        return cls._opened(bytes(data), "the snapshot")

    @classmethod
    def _opened(cls, data: bytes, name: str) -> Self:
        header, arrays = unpack(data, name)
        self = object.__new__(cls)
        self._stream = self._engine = None
        self._file, self._name, self.nbytes = (header, arrays), name, len(data)
        try:
            self.config = SessionConfig(**header["config"])
            self.mode = Mode(header["mode"])
            self.character = header["identity"]["character"]
            self._identity = dict(header["identity"])
        except _MALFORMED as error:
            raise SnapshotError(
                f"{name} was saved by streamchar_rt {header.get('package')}, which wrote other options",
                hint="load it with that version, or take it again",
            ) from error
        return self

    def open(self, engine: Engine, character: Character, blank: Callable[[], Stream]) -> Stream:
        """The stream, independent of the snapshot, for a session of that engine and character.

        Args:
            blank: makes a stream of that session.

        Raises:
            SnapshotError: where the snapshot is of another model, character or version.
        """
        _check_identity(self._name, self._identity, _identity(engine, character))
        if self._stream is not None and self._engine is engine:
            return self._stream.clone()
        from .large_memory import copy_of
        from .stream_codec import StreamCodec

        header, arrays = self._file or self._written()
        codec = StreamCodec(engine, blank())
        if header.get("layout") != codec.layout:
            raise SnapshotError(
                f"{self._name} was saved by streamchar_rt {header.get('package')}, which keeps other things",
                hint="load it with that version, or take it again",
            )
        try:
            return codec.read(header["graph"], list(map(copy_of, arrays)), character.features)
        except _MALFORMED as error:
            raise SnapshotError(f"{self._name} does not make sense: {error}", hint="take it again") from error

    def _written(self) -> tuple[dict[str, Any], list[Any]]:
        from .stream_codec import StreamCodec

        codec = StreamCodec(self._engine, self._stream)
        graph, arrays = codec.write(self._stream)
        header = {
            "package": __version__,
            "identity": self._identity,
            "config": _plain(self.config),
            "mode": self.mode.value,
            "layout": codec.layout,
            "graph": graph,
        }
        return header, arrays

    def __repr__(self) -> str:
        return f"<Snapshot of {self.character!r} {self.nbytes} bytes>"


def _plain(config: SessionConfig) -> dict[str, Any]:
    options = dataclasses.asdict(config)
    del options["record"]  # a function
    return options


def _identity(engine: Engine, character: Character) -> dict[str, str]:
    return {
        "model": engine.bundle.name,
        "bundle": engine.bundle.manifest["digest"],
        "character": character.name,
        "picture": character.digest,
        "voice": character.voice,
    }


def _check_identity(name: str, found: dict[str, str], wanted: dict[str, str]) -> None:
    if found.get("bundle") != wanted["bundle"]:
        raise SnapshotError(
            f"{name} is of model {found.get('model')!r}, {str(found.get('bundle'))[:12]}, and not of "
            f"{wanted['model']!r}, {wanted['bundle'][:12]}",
            hint="load the engine with that bundle",
        )
    if any(found.get(key) != wanted[key] for key in ("picture", "voice")):
        raise SnapshotError(
            f"{name} is of character {found.get('character')!r} with voice {found.get('voice')!r}, and not of "
            f"{wanted['character']!r} with voice {wanted['voice']!r}",
            hint="restore it in a session of that character",
        )
