"""Characters: a reference image with a voice, encoded once and shared by any number of sessions."""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .drift import look_at
from .errors import ConfigError, OutputError

_FORMAT = "streamchar-character"
_VERSION = "1"


class Character:
    """A reference image with a voice. Immutable; made by ``Engine.character``.

    Attributes:
        name: the shipped name, or the picture file's.
        voice: one of the engine's voices.
        picture: uint8 (height, width, 4), straight alpha, as the model sees it.
        features: what the model derived from the picture.
        model: digest of the bundle that derived it.
        digest: of the picture.
        look: what the drift meter compares the stream's pictures with.
    """

    __slots__ = ("name", "voice", "picture", "features", "model", "digest", "look")

    def __init__(self, name: str, voice: str, picture: npt.NDArray[np.uint8], features: Any, model: str) -> None:
        self.name = name
        self.voice = voice
        self.picture = picture
        self.features = features
        self.model = model
        self.digest = hashlib.sha256(np.ascontiguousarray(picture)).hexdigest()
        self.look = look_at(picture[None])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes picture, voice and encoding to one file, which ``Engine.character`` takes.

        Raises:
            OutputError: where ``path`` cannot be written.
        """
        import torch
        from safetensors.torch import save

        tensors = {f"features.{name}": t.contiguous() for name, t in self.features.to_tensors().items()}
        tensors["picture"] = torch.from_numpy(self.picture)
        metadata = {"format": _FORMAT, "version": _VERSION, "name": self.name, "voice": self.voice, "model": self.model}
        try:
            Path(path).write_bytes(save(tensors, metadata))
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}", hint="choose another folder") from error

    def __repr__(self) -> str:
        return f"<Character {self.name!r} voice={self.voice!r}>"


def is_character_file(path: Path) -> bool:
    """Whether ``path`` looks like what ``Character.save`` writes (a safetensors file: eight bytes, then JSON)."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 20


def read_character_file(path: Path) -> tuple[dict[str, str], npt.NDArray[np.uint8], dict[str, Any]]:
    """(name, voice and model; picture; feature tensors) of a saved character.

    Raises:
        ConfigError: where the file is not a whole one, or of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is damaged: {error}", hint="save the character again") from error
    if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION or "picture" not in tensors:
        raise ConfigError(f"{path} is not a character of this version", hint="save the character again")
    picture = tensors.pop("picture").numpy()
    return metadata, picture, {name.removeprefix("features."): tensor for name, tensor in tensors.items()}
