"""The three-line first run."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from .chunk import Chunk
from .engine import Engine
from .errors import ConfigError
from .media import Writer, open_writer


def generate(
    text: str,
    *,
    model: str | os.PathLike[str] = "mini",
    character: Any = None,
    voice: str | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Iterator[Chunk]:
    """Speaks ``text``, chunk by chunk; with ``out``, also writes it while the chunks are taken.

    Args:
        character: what ``Engine.character`` takes; None: the model's first character.
        out: an .mp4, .webm or .wav file, or a folder for PNG frames.

    Raises:
        ConfigError: for text without anything but white space, or other bad arguments; before anything is loaded.
        OutputError: where ``out`` cannot be written; before anything is generated.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("there is no text to speak", hint='for example generate("Hello!")')
    with ExitStack() as stack:
        writer = open_writer(out) if out is not None else None
        engine = stack.enter_context(Engine.load(model))
        chosen = engine.character(engine.characters()[0] if character is None else character, voice=voice)
        session = stack.enter_context(engine.session(chosen, seed=seed))
        session.push_stream([text])
        session.end_turn()
        kept = stack.pop_all()
    return _chunks(session, writer, kept)


def _chunks(session: Any, writer: Writer | None, resources: ExitStack) -> Iterator[Chunk]:
    with resources:
        if writer is not None:
            resources.enter_context(writer)
        for chunk in session.turn():
            if writer is not None:
                writer.write(chunk, session.info)
            yield chunk
