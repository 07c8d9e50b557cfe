"""Recorded sessions: files that hold a session's input, and live it again, byte for byte.

A recording is JSON lines, in ASCII. The first line says what is needed to begin::

    {"do": "session", "t": 0.0, "format": "streamchar-recording", "version": 1, "package": …, "torch": …,
     "kernels": …, "model": …, "bundle": digest, "character": name, "voice": …, "picture": digest,
     "seed": …, and all other options of SessionConfig}

Each further line is one thing that happened, in the order in which it took effect (see ``journal``): ``push_text``,
``cue``, ``flush``, ``end_turn``, ``listen``, ``rest``, ``reset``, ``interrupt``, ``hold`` and ``drawn`` with their
arguments, ``recall`` with a time, and ``chunk`` with the number of denoising steps and the digest of the chunk. ``t`` is seconds since the
session began, for people to read; replaying goes by the order alone.
"""
from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from . import __version__
from .chunk import Chunk
from .config import SessionConfig
from .errors import ConfigError, OutputError
from .journal import chunk_digest, replay

if TYPE_CHECKING:
    from .character import Character
    from .engine import Engine
    from .session import Session

_FORMAT, _VERSION = "streamchar-recording", 1


class Recorder:
    """Writes a session's input to a file while it happens: ``engine.session(character, record=recorder)``.

    Every line is written out at once, so that a recording is good up to the moment of a crash. Where the disk is
    full the recording ends and the session goes on; ``close`` says so.

    Raises:
        OutputError: where ``path`` cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], engine: Engine, character: Character) -> None:
        self._path = Path(path)
        self._error: OSError | None = None
        self._facts = {"format": _FORMAT, "version": _VERSION, "package": __version__, **_facts(engine, character)}
        try:
            self._file: IO[str] | None = self._path.open("w", encoding="ascii")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}", hint="choose another folder") from error

    def __call__(self, entry: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        if entry["do"] == "session":
            entry = {**entry, **self._facts}
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:  # not the session's fault: it goes on
            self._error, self._file = error, None

    def close(self) -> None:
        """Ends the recording; the session may go on.

        Raises:
            OutputError: where not all of it could be written.
        """
        file, self._file = self._file, None
        error, self._error = self._error, None
        if file is not None:
            file.close()
        if error is not None:
            raise OutputError(f"{self._path} is not whole: {error.strerror}", hint="is the disk full?") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording that has been read.

    Attributes:
        facts: the first line.
        entries: the others.
        config: the session's options, stepped by hand whatever the original was.
    """

    path: str
    facts: Mapping[str, Any]
    entries: tuple[Mapping[str, Any], ...]
    config: SessionConfig

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file. A last line that a crash has left unfinished is left out.

        Raises:
            ConfigError: where it is missing, damaged, no recording or of another version.
        """
        try:
            text = Path(path).read_text(encoding="ascii")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not a recording", hint="give what Recorder or --record wrote") from error
        lines = text.split("\n")[:-1]
        entries = [_entry(path, number, line) for number, line in enumerate(lines, 1)]
        facts = entries[0] if entries else {}
        if facts.get("do") != "session" or facts.get("format") != _FORMAT:
            raise ConfigError(f"{path} is not a recording", hint="give what Recorder or --record wrote")
        if facts.get("version") != _VERSION:
            raise ConfigError(
                f"{path} has format version {facts.get('version')!r}; this package reads {_VERSION}",
                hint="replay it with the version that wrote it",
            )
        names = {field.name for field in dataclasses.fields(SessionConfig)} - {"record", "threading"}
        try:
            config = SessionConfig(**{name: facts[name] for name in names})
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} has options that do not work: {error}", hint="record it again") from error
        return cls(os.fspath(path), facts, tuple(entries[1:]), config)

    @property
    def digests(self) -> list[str | None]:
        """Of the recorded chunks, in order."""
        return [entry.get("digest") for entry in self.entries if entry["do"] == "chunk" and entry.get("steps")]

    def heard(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Of the played chunks, what is left to hear: whole frames up to each cut, and no chunk that was taken back."""
        lengths: list[int] | None = None
        for count, chunk in enumerate(chunks):
            lengths = self._lengths(len(chunk.audio)) if lengths is None else lengths
            part = _first(chunk, lengths[count]) if count < len(lengths) else chunk
            if part is not None:
                yield part

    def _lengths(self, whole: int) -> list[int]:
        """How many samples of each recorded chunk were not cut away later."""
        spans: list[tuple[int, int]] = []
        clock = 0
        for entry in self.entries:
            if entry["do"] == "chunk" and entry.get("steps"):
                spans.append((clock, clock + whole))
                clock += whole
            elif entry["do"] in ("interrupt", "recall"):
                clock = int(entry["heard_pts"] if entry["do"] == "interrupt" else entry["pts"])
                spans = [(begin, min(end, max(begin, clock))) for begin, end in spans]
        return [end - begin for begin, end in spans]

    def session(self, engine: Engine, character: Character) -> Session:
        """A session that can live the recording again.

        Raises:
            ConfigError: where model, picture or voice are not the recorded ones.
        """
        here = _facts(engine, character)
        for key, what in (("bundle", "model"), ("picture", "character's picture"), ("voice", "voice")):
            if self.facts.get(key) != here[key]:
                raise ConfigError(
                    f"{self.path} was recorded with another {what}: {str(self.facts.get(key))[:16]}, "
                    f"here {here[key][:16]}",
                    hint=f"model {self.facts.get('model')!r}, character {self.facts.get('character')!r} "
                    f"with voice {self.facts.get('voice')!r}",
                )
        return engine.session(character, self.config)

    def play(self, session: Session) -> Iterator[tuple[Chunk, bool]]:
        """The chunks, each with whether it is the recorded one, bit for bit.

        Raises:
            ConfigError: for a line that makes no sense, or where there are fewer chunks than recorded.
        """
        digests = iter(self.digests)
        try:
            for chunk in replay(session, [self.facts, *self.entries]):
                yield chunk, chunk_digest(chunk) == next(digests, None)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self.path} has a line that makes no sense: {error}", hint="record it again") from error
        if next(digests, None) is not None:
            raise ConfigError(f"{self.path} has chunks that did not come again", hint=self.differences(session))

    def differences(self, session: Session) -> str:
        """What of package, torch and kernels is not as it was."""
        here = {"package": __version__, **_facts(session._engine, session._character)}
        found = [
            f"{key} {self.facts.get(key)} then, {here[key]} now"
            for key in ("package", "torch", "kernels")
            if self.facts.get(key) != here[key]
        ]
        return "; ".join(found) or "the same package, torch and kernels"


def _first(chunk: Chunk, samples: int) -> Chunk | None:
    """The whole frames within the first samples of a chunk."""
    frame = len(chunk.audio) // len(chunk.video)
    frames = samples // frame
    if frames >= len(chunk.video):
        return chunk
    if not frames:
        return None
    fields = {name: getattr(chunk, name) for name in Chunk.__slots__ if not name.startswith("_")}
    return Chunk(**fields, audio=chunk.audio[: frames * frame], video=chunk.video[:frames])


def _facts(engine: Engine, character: Character) -> dict[str, str]:
    import torch

    from . import ops

    native = engine.config.kernels != "reference"
    return {
        "torch": torch.__version__,
        "kernels": str(ops.kernels_in_use().get("isa", "reference")) if native else "reference",
        "model": engine.bundle.name,
        "bundle": engine.bundle.manifest["digest"],
        "character": character.name,
        "voice": character.voice,
        "picture": character.digest,
    }


def _entry(path: str | os.PathLike[str], number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}, line {number}, is not JSON", hint="record it again") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("do"), str):
        raise ConfigError(f"{path}, line {number}, says nothing that was done", hint="record it again")
    return entry
