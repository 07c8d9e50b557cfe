"""Typed errors: each has a code (the C ABI status name) and a hint that names the remedy."""
from __future__ import annotations


class StreamCharError(Exception):
    """Base class of everything this package raises on purpose.

    Attributes:
        code: the C ABI status name.
        message: what is wrong and what was found.
        hint: what to do next; may be empty.
    """

    code: str = "SC_E_INTERNAL"
    hint: str = ""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        # OSError and friends have a __str__ of their own; the message and its remedy come first here.
        return str(self.args[0]) if self.args else ""


class ConfigError(StreamCharError, ValueError):
    """An argument, option or input that cannot work."""

    code = "SC_E_INVALID_ARGUMENT"


class SnapshotError(ConfigError):
    """A snapshot that is damaged, or of another model, character or version."""

    code = "SC_E_FORMAT"


class BundleError(StreamCharError):
    """The model folder is missing, damaged or of another version; names the file."""

    code = "SC_E_FORMAT"


class UnsupportedError(StreamCharError):
    """This build, device or model has no such ability."""

    code = "SC_E_UNSUPPORTED"


class DeviceMemoryError(StreamCharError, MemoryError):
    """The memory plan does not fit."""

    code = "SC_E_DEVICE_MEMORY"
    required_bytes: int
    available_bytes: int

    def __init__(self, message: str = "", *, hint: str = "", required_bytes: int = 0, available_bytes: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.required_bytes = required_bytes
        self.available_bytes = available_bytes


class DeviceLostError(StreamCharError):
    """The device is unusable; close the engine and load it again."""

    code = "SC_E_DEVICE_LOST"


class SessionClosedError(StreamCharError):
    """The session, or its engine, has been closed."""

    code = "SC_E_CLOSED"


class StateError(StreamCharError):
    """A call that the current state forbids (a second consumer, text beyond the limit)."""

    code = "SC_E_INVALID_STATE"


class OutputError(StreamCharError, OSError):
    """A file or folder cannot be written."""

    code = "SC_E_IO"
