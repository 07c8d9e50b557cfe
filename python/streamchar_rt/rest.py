"""Text comes while the character rests: rest that nobody has taken gives way.

Else the text would be heard behind it only. It was not handed out, so nobody misses it. The lock is held.
"""
from __future__ import annotations

import contextlib

from .errors import StateError
from .jobs import Job
from .live import Live


def recall_rest(live: Live) -> None:
    """Takes back chunks of rest that wait in the ring or are being made."""
    stream, job = live.stream, live.job
    if stream.state is None or not stream.speech.at_rest(stream.state):
        return
    if job is not None and live.is_void(job):
        return
    if job is not None and not job.computing:
        job.outdated = True  # what it is to be is not decided yet, or it is about to be done
        return
    if job is not None and not job.rests:
        return
    pts, rest = live.clock, 0
    for ready in reversed(live.ring):
        if not ready.rests:
            break
        pts, rest = ready.chunk.pts, rest + 1
    if rest or job is not None:
        with contextlib.suppress(StateError):  # text is being drawn, and cannot be copied
            live.recall(pts)


def void_if_outdated(live: Live, job: Job) -> None:
    """Takes back a chunk of rest that text came upon before it was computed."""
    if job.outdated and not live.is_void(job):
        job.outdated, job.computing = False, True
        recall_rest(live)
