"""Streaming character audio-video generation: text in, a talking character out, chunk by chunk.

The names below are the whole public surface. Importing this package is cheap: a module is loaded when one of
its names is first used.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "engine": ("Engine",),
    "session": ("Session",),
    "snapshot": ("Snapshot",),
    "character": ("Character",),
    "one_shot": ("generate",),
    "pacing": ("paced",),
    "journal": ("replay",),
    "config": ("EngineConfig", "Mode", "SessionConfig", "StreamInfo"),
    "chunk": ("Chunk", "Interruption", "StageTimings", "VideoFrame", "Viseme", "Word"),
    "errors": (
        "BundleError", "ConfigError", "DeviceLostError", "DeviceMemoryError", "OutputError", "SessionClosedError",
        "SnapshotError", "StateError", "StreamCharError", "UnsupportedError",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from .character import Character as Character
    from .chunk import Chunk as Chunk, Interruption as Interruption, StageTimings as StageTimings
    from .chunk import VideoFrame as VideoFrame, Viseme as Viseme, Word as Word
    from .config import EngineConfig as EngineConfig, Mode as Mode, SessionConfig as SessionConfig
    from .config import StreamInfo as StreamInfo
    from .engine import Engine as Engine
    from .errors import BundleError as BundleError, ConfigError as ConfigError, DeviceLostError as DeviceLostError
    from .errors import DeviceMemoryError as DeviceMemoryError, OutputError as OutputError
    from .errors import SessionClosedError as SessionClosedError, SnapshotError as SnapshotError
    from .errors import StateError as StateError
    from .errors import StreamCharError as StreamCharError, UnsupportedError as UnsupportedError
    from .journal import replay as replay
    from .one_shot import generate as generate
    from .pacing import paced as paced
    from .session import Session as Session
    from .snapshot import Snapshot as Snapshot


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
