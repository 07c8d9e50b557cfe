"""Background threading: a worker that keeps a session's ring of finished chunks filled."""
from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable

from .errors import SessionClosedError
from .jobs import Event, Ready
from .live import Live
from .outlet import Outlet
from .producer import Producer

_JOIN_SECONDS = 1.0  # that closing waits for a worker which a text stream keeps waiting
_PATIENT_TRIES = 3  # how often a worker with nothing to do looks whether an unfinished text may be spoken by now
_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


class Worker:
    """Fills the ring of a producer until it is closed; hands the chunks to one consumer.

    A chunk is begun while the ring has a free slot and less than ``max_lead`` seconds lie ahead of the playback
    that was reported; where none was ever reported, the ring alone is the limit. What the making of a chunk
    raises, the consumer gets when the chunks before it are taken; then the worker tries again.
    """

    def __init__(self, live: Live, producer: Producer, outlet: Outlet, slots: int) -> None:
        self._live, self._producer, self._outlet = live, producer, outlet
        self._slots = slots
        self._error: BaseException | None = None
        self._idle_since: int | None = None  # count of inputs with which there was nothing to do
        self._tries = 0
        self._wakers: set[Callable[[], None]] = set()
        self._thread = threading.Thread(target=self._work, name="streamchar session", daemon=True)
        _workers.add(self)
        self._thread.start()

    # ------------------------------------------------------------ the consumer
    def take(self, timeout: float | None, *, waited: bool = False) -> tuple[Ready | None, list[Event]]:
        """The next chunk, and what else is to be told.

        Args:
            timeout: seconds to wait; None: until there is a chunk, or the session is closed.
            waited: whether this consumer has been waiting for the chunk before this call.
        """
        live, events = self._live, []
        until = None if timeout is None else time.monotonic() + timeout
        with live.changed:
            while True:
                live.check_open()
                if live.ring and not live.paused:
                    if waited:
                        self._note_underrun(events)
                    ready = live.ring.popleft()
                    self._outlet.hand_out(ready)
                    live.changed.notify_all()
                    return ready, events
                if self._error is not None and not live.paused:
                    error, self._error = self._error, None
                    live.changed.notify_all()
                    raise error
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    self._note_underrun(events)
                    return None, events
                live.changed.wait(left)
                waited = True

    def _note_underrun(self, events: list[Event]) -> None:
        late = self._outlet.starves()
        if late is not None:
            self._live.counters.underruns += 1
            events.append(("underrun", {"pts": self._live.handed, "late_ms": late * 1e3}))

    def on_chunk(self, waker: Callable[[], None]) -> Callable[[], None]:
        """Calls ``waker``, in any thread, when there may be something to take. Returns what ends this."""
        with self._live.changed:
            self._wakers.add(waker)
        return lambda: self._wakers.discard(waker)

    def wake(self) -> None:
        """Tells those who wait without a thread of their own to look."""
        with self._live.changed:
            wakers = list(self._wakers)
            self._live.changed.notify_all()
        for waker in wakers:
            waker()

    def join(self, timeout: float = _JOIN_SECONDS) -> None:
        """Waits for the thread of a producer that has been closed; not from the worker's own thread."""
        if self._thread is threading.current_thread():
            return
        self._thread.join(timeout)

    # ------------------------------------------------------------ the worker's thread
    def _work(self) -> None:
        try:
            self._make_chunks()
        finally:
            self._producer.leave()

    def _make_chunks(self) -> None:
        live = self._live
        while self._await_work():
            inputs = live.inputs
            try:
                ready = self._producer.produce(hand_out=False)
            except SessionClosedError:
                return
            except BaseException as error:  # the consumer's to handle
                with live.changed:
                    if live.closed:
                        return
                    self._error = error
            else:
                with live.changed:
                    self._idle_since = None if ready is not None or live.paused else inputs
                    if self._idle_since is not None:
                        live.playback.halt()
            self.wake()

    def _await_work(self) -> bool:
        """Waits until a chunk may be begun; False when the producer is closed."""
        live = self._live
        with live.changed:
            while not live.closed:
                if self._may_begin():
                    return True
                self._producer.leave()
                timeout = None
                if self._idle_since == live.inputs and self._tries < _PATIENT_TRIES and live.unspoken():
                    timeout = live.info.chunk_seconds
                if not live.changed.wait(timeout) and self._idle_since == live.inputs:
                    self._tries += 1
                    self._idle_since = None
            return False

    def _may_begin(self) -> bool:
        live = self._live
        if live.paused or self._error is not None or len(live.ring) >= self._slots:
            return False
        if self._idle_since is not None:
            if self._idle_since == live.inputs:
                return False
            self._tries = 0
        return not live.playback.reported or live.lead <= 0 or live.lead < live.config.max_lead


def stop_all(timeout: float = 5.0) -> None:
    """Ends every worker: at the interpreter's end none may be inside a computation."""
    workers = list(_workers)
    for worker in workers:
        worker._live.close()
    for worker in workers:
        worker.join(timeout)


atexit.register(stop_all)
