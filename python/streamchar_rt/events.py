"""Callbacks of a session."""
from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

Callback = Callable[[str, Mapping[str, Any]], None]
_log = logging.getLogger("streamchar_rt")


class Events:
    """Who wants to hear of what happens. Any thread may subscribe; callbacks run in the emitting thread."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callback] = {}
        self._next = 0
        self._lock = threading.Lock()

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Returns the function that ends the subscription."""
        with self._lock:
            key = self._next
            self._next += 1
            self._callbacks[key] = callback
        return lambda: self._remove(key)

    def _remove(self, key: int) -> None:
        with self._lock:
            self._callbacks.pop(key, None)

    def emit(self, name: str, details: Mapping[str, Any]) -> None:
        """Calls everyone. A callback that fails is logged and does not stop the stream."""
        with self._lock:
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            try:
                callback(name, details)
            except Exception:
                _log.exception("a callback failed on event %r", name)
