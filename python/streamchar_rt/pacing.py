"""The listener's clock: where playback stands, when chunks are due, and how many steps there is time for."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from .chunk import Chunk, StageTimings
from .config import check_number
from .errors import ConfigError

if TYPE_CHECKING:
    from .session import Session

_MARGIN = 1.1  # times the expected cost that must fit before a deadline
_LEARNING = 0.25  # weight of the newest chunk's cost


class PlaybackClock:
    """Where playback stands, from what the application reports. Times are seconds of a monotonic clock.

    Between reports it is taken to go on at its own pace. It stands still where the player has nothing to play:
    then it goes on with the next chunk that is handed out.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self.pts = 0  # the last report
        self.reported = False
        self._zero: float | None = None  # the time at which pts 0 would have been played; None: stands still
        self._told = False  # that there is nothing to play

    @property
    def running(self) -> bool:
        return self._zero is not None

    def report(self, pts: int, now: float, end: int) -> None:
        """``pts`` is being played; ``end``: up to where the player has been given sound."""
        self.reported = True
        if pts < self.pts:
            return
        self.pts = pts
        if pts < end:  # at the end it plays nothing, and tells nothing about the time
            self._zero = now - pts / self._rate

    def halt(self) -> None:
        """The player is about to have nothing to play, on purpose."""
        self._zero = None

    def cut(self, pts: int) -> None:
        """All from ``pts`` on is void."""
        self.pts = min(self.pts, pts)
        self._told = False
        self.halt()

    def handed(self, pts: int, now: float) -> float:
        """A chunk that begins at ``pts`` is handed out. Returns by how many seconds it comes too late."""
        self._told = False
        if not self.reported:
            return 0.0
        late = 0.0 if self._zero is None else max(0.0, now - self.due(pts))
        if self._zero is None or late:
            self._zero = now - pts / self._rate
        return late

    def starves(self, end: int, now: float) -> float | None:
        """Seconds for which playback has stood at ``end``, where it has no more to play; told once."""
        if self._told or self._zero is None or now <= self.due(end):
            return None
        self._told = True
        return now - self.due(end)

    def due(self, pts: int) -> float:
        """When ``pts`` is played; only while running."""
        return self._zero + pts / self._rate


class StepChooser:
    """How many denoising steps there is time for, from what chunks have cost: all, or a half, a quarter … of them."""

    def __init__(self, steps: int) -> None:
        self._choices = [steps]
        while self._choices[-1] > 1:
            self._choices.append(self._choices[-1] // 2)
        self._step: float | None = None  # seconds
        self._rest = 0.0  # seconds of a chunk that do not depend on the steps

    def learn(self, timings: StageTimings) -> None:
        """Takes note of what a chunk has cost."""
        if not timings.denoise_steps:
            return
        step = timings.denoise_ms / timings.denoise_steps / 1e3
        rest = (timings.total_ms - timings.denoise_ms) / 1e3
        if self._step is None:
            self._step, self._rest = step, rest
        else:
            self._step += (step - self._step) * _LEARNING
            self._rest += (rest - self._rest) * _LEARNING

    def choose(self, slack: float) -> int:
        """The most steps that are expected to take at most ``slack`` seconds, chunk and all; else the fewest."""
        if self._step is None:
            return self._choices[0]
        fitting = (n for n in self._choices if (self._rest + n * self._step) * _MARGIN <= slack)
        return next(fitting, self._choices[-1])


def paced(
    session: Session,
    chunks: Iterable[Chunk] | None = None,
    *,
    ahead: float = 0.1,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] | None = None,
) -> Iterator[Chunk]:
    """Yields a session's chunks when it is time to play them, and reports playback to the session.

    The first chunk comes at once and is taken to be heard ``ahead`` seconds later; each of the others comes
    ``ahead`` seconds before it is heard. A chunk that is late moves the time of all that follow: nothing is
    skipped. After an interrupt, chunks that were not yielded yet are dropped, and the next one comes at once.

    Args:
        chunks: what to pace; None: the session's chunks until it is closed. ``session.turn()`` paces one turn.
        ahead: seconds of sound that the player holds.
        clock: monotonic seconds.
        sleep: waits that many seconds; None: a wait that ends when the session is interrupted.
    """
    ahead = check_number("ahead", ahead, 0.0, 60.0)
    if not callable(clock) or not (sleep is None or callable(sleep)):
        raise ConfigError("clock and sleep are functions", hint="for example time.monotonic and time.sleep")
    return _paced(session, session if chunks is None else chunks, ahead, clock, sleep)


def _paced(
    session: Session, chunks: Iterable[Chunk], ahead: float, clock: Callable[[], float],
    sleep: Callable[[float], object] | None,
) -> Iterator[Chunk]:  # fmt: skip
    rate = session.info.sample_rate
    zero = 0.0  # the time at which pts 0 is heard
    following = None  # pts of the chunk that would follow
    for chunk in chunks:
        now = clock()
        if chunk.pts != following or now > zero + chunk.pts / rate:
            zero = now + ahead - chunk.pts / rate
        while (wait := zero + chunk.pts / rate - ahead - clock()) > 1e-4 and session.is_valid(chunk):
            if sleep is None:
                session.wait_while_valid(chunk, wait)
            else:
                sleep(wait)
        if not session.is_valid(chunk):
            continue
        following = chunk.pts + session.info.chunk_samples
        session.report_playback(min(chunk.pts, max(0, round((clock() - zero) * rate))))
        yield chunk
