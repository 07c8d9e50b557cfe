"""Counters of a session."""
from __future__ import annotations

from .chunk import StageTimings
from .drift import Drift

_STAGES = ("orchestrator_ms", "context_ms", "denoise_ms", "audio_decode_ms", "video_decode_ms")
LATENCIES = ("stop", "quiet", "turnaround")


class Turnaround:
    """Measures from an interrupt, or the first text after it, to the first chunk that speaks. Times in seconds."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._has_text = False

    def begin(self, now: float) -> None:
        """An interrupt."""
        self._since, self._has_text = now, False

    def text_comes(self, now: float) -> None:
        if self._since is not None and not self._has_text:
            self._since, self._has_text = now, True

    def spoken(self, now: float) -> float | None:
        """A chunk that speaks is handed out: how long it took, if it is the first one."""
        since, self._since = self._since, None
        return None if since is None else now - since


class Counters:
    """What has happened since the session began."""

    def __init__(self) -> None:
        self.chunks = self.turns = self.words = self.late = self.reduced = 0
        self.underruns = self.interrupts = self.dropped = self.recalled = 0
        self.underrun_ms = 0.0
        self.first_ms = self.total_ms = self.worst_ms = 0.0
        self.drift = self.worst_drift = self.total_drift = 0.0
        self.stages = dict.fromkeys(_STAGES, 0.0)
        self.last = dict.fromkeys(LATENCIES, 0.0)
        self.worst = dict.fromkeys(LATENCIES, 0.0)

    def add(
        self, timings: StageTimings, *, words: int, turn_ends: bool, full_steps: int, drift: Drift | None = None
    ) -> None:
        """A chunk has been handed out."""
        if not self.chunks:
            self.first_ms = timings.total_ms
        self.chunks += 1
        self.turns += turn_ends
        self.words += words
        self.late += timings.deadline_slack_ms < 0
        self.reduced += 0 < timings.denoise_steps < full_steps
        self.total_ms += timings.total_ms
        self.worst_ms = max(self.worst_ms, timings.total_ms)
        if drift is not None:
            self.drift = drift.distance
            self.worst_drift = max(self.worst_drift, drift.distance)
            self.total_drift += drift.distance
        for name in self.stages:
            self.stages[name] += getattr(timings, name)

    def latency(self, name: str, milliseconds: float) -> None:
        """One of ``LATENCIES`` of an interrupt."""
        self.last[name] = milliseconds
        self.worst[name] = max(self.worst[name], milliseconds)

    def summary(self, chunk_seconds: float) -> dict[str, float | int]:
        count = max(1, self.chunks)
        return {
            "chunks": self.chunks,
            "turns": self.turns,
            "words": self.words,
            "late_chunks": self.late,
            "reduced_chunks": self.reduced,
            "underruns": self.underruns,
            "underrun_ms": self.underrun_ms,
            "interrupts": self.interrupts,
            "dropped_chunks": self.dropped,
            "recalled_chunks": self.recalled,
            **{f"interrupt_{name}_ms": value for name, value in self.last.items()},
            **{f"interrupt_{name}_worst_ms": value for name, value in self.worst.items()},
            "first_chunk_ms": self.first_ms,
            "mean_chunk_ms": self.total_ms / count,
            "worst_chunk_ms": self.worst_ms,
            "real_time_factor": self.total_ms / count / 1e3 / chunk_seconds,
            **{name: total / count for name, total in self.stages.items()},
            "drift": self.drift,
            "mean_drift": self.total_drift / count,
            "worst_drift": self.worst_drift,
        }
