"""Options of engines and sessions, and the facts of a stream."""
from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, Literal, TypeVar, get_args

from .errors import ConfigError

Dtype = Literal["auto", "fp32", "bf16", "fp16", "fp8", "int8"]
Kernels = Literal["auto", "native", "reference"]
PixelFormat = Literal["rgba", "bgra", "rgb"]
Idle = Literal["stop", "hold", "generate"]


class Mode(str, Enum):
    """What a character is doing."""

    IDLE = "idle"
    LISTENING = "listening"
    SPEAKING = "speaking"


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The facts of a stream that never change."""

    sample_rate: int  # Hz
    fps: Fraction
    width: int  # pixels
    height: int
    chunk_frames: int
    chunk_samples: int
    alpha_mode: Literal["none", "straight", "premultiplied"]
    capabilities: frozenset[str]

    @property
    def chunk_seconds(self) -> float:
        return self.chunk_samples / self.sample_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Options of an engine.

    Raises:
        ConfigError: for values outside their range.
    """

    device: str = "auto"  # "auto" (the CPU) | "cpu" | "cuda" | "cuda:N"; live sessions on CUDA have not been verified
    dtype: Dtype = "auto"
    threads: int | None = None  # CPU threads; None = physical cores
    max_sessions: int = 1
    device_memory_limit: int | None = None  # bytes
    slots_per_session: int = 3  # finished chunks held for a slow consumer
    cuda_graphs: bool = True
    kernels: Kernels = "auto"
    nvtx: bool = False

    def __post_init__(self) -> None:
        device = self.device if isinstance(self.device, str) else ""
        if device not in ("auto", "cpu", "cuda") and not (device.startswith("cuda:") and device[5:].isdigit()):
            raise ConfigError(f"device={self.device!r} is unknown", hint='"auto", "cpu", "cuda" or "cuda:N"')
        _check_choice("dtype", self.dtype, Dtype)
        _check_choice("kernels", self.kernels, Kernels)
        if self.threads is not None:
            _check_integer("threads", self.threads, 1, 1024)
        _check_integer("max_sessions", self.max_sessions, 1, 65_536)
        _check_integer("slots_per_session", self.slots_per_session, 1, 1024)
        if self.device_memory_limit is not None:
            _check_integer("device_memory_limit", self.device_memory_limit, 1, 2**63 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """Options of a session.

    Raises:
        ConfigError: for values outside their range.
    """

    seed: int = 0
    steps: int | None = None  # denoising steps; None = the bundle's
    adaptive_steps: bool = True  # may take fewer steps to hold a deadline (none when stepped by hand)
    pixel_format: PixelFormat = "rgba"  # "rgb" is composed over a plain light background
    memory: Literal["host", "cuda"] = "host"
    max_lead: float = 1.0  # seconds ahead of reported playback beyond which no chunk is begun in the background
    idle: Idle = "generate"
    interrupt_fade: float = 0.04  # seconds
    markup: Literal["none", "tags"] = "tags"  # inline [happy] … tags are cues, never spoken
    max_pending_text: int = 16_384  # characters; more is a StateError, nothing lost
    threading: Literal["manual", "background"] = "manual"
    record: Callable[[Mapping[str, Any]], None] | None = None  # told of all input, in the order of its effect

    def __post_init__(self) -> None:
        _check_integer("seed", self.seed, 0, 2**63 - 1)
        if self.steps is not None:
            _check_integer("steps", self.steps, 1, 256)
        _check_choice("pixel_format", self.pixel_format, PixelFormat)
        _check_choice("memory", self.memory, Literal["host", "cuda"])
        _check_choice("idle", self.idle, Idle)
        _check_choice("markup", self.markup, Literal["none", "tags"])
        _check_choice("threading", self.threading, Literal["manual", "background"])
        check_number("max_lead", self.max_lead, 0.0, 3600.0)
        check_number("interrupt_fade", self.interrupt_fade, 0.0, 1.0)
        _check_integer("max_pending_text", self.max_pending_text, 1, 2**31 - 1)
        if self.record is not None and not callable(self.record):
            raise ConfigError(f"record={self.record!r} is not a function", hint="for example record=entries.append")


Options = TypeVar("Options", EngineConfig, SessionConfig)


def with_overrides(kind: type[Options], config: Options | None, overrides: Mapping[str, Any]) -> Options:
    """``config`` (or the defaults) with single options replaced.

    Raises:
        ConfigError: for an unknown option, naming the nearest known one, or a value out of range.
    """
    if config is None:
        config = kind()
    elif not isinstance(config, kind):
        raise ConfigError(f"config is {type(config).__name__}", hint=f"pass a {kind.__name__} or keyword options")
    names = [field.name for field in dataclasses.fields(kind)]
    for name in overrides:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(names)
            raise ConfigError(f"{kind.__name__} has no option {name!r}", hint=hint)
    return dataclasses.replace(config, **overrides) if overrides else config


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a finite float in [low, high]; ConfigError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{name}={value!r} is not a number", hint=f"{low:g} to {high:g}")
    if not low <= value <= high:
        raise ConfigError(f"{name}={value!r} is out of range", hint=f"{low:g} to {high:g}")
    return float(value)


def _check_integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name}={value!r} is not a whole number", hint=f"{low} to {high}")
    if not low <= value <= high:
        raise ConfigError(f"{name}={value} is out of range", hint=f"{low} to {high}")


def _check_choice(name: str, value: Any, literal: Any) -> None:
    choices = get_args(literal)
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is unknown", hint="one of " + ", ".join(map(repr, choices)))
