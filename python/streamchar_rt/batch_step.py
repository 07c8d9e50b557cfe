"""One chunk of every session that is ready, generated together: what ``Engine.step`` does."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .chunk import Chunk
from .errors import SessionClosedError, StateError

if TYPE_CHECKING:
    from .engine import Engine
    from .jobs import Event, Job, Ready
    from .producer import Producer
    from .session import Session

MOST = 8  # streams in one batch: bounds the temporary tensors, and how long the first of them waits for the last


@dataclass
class _Member:
    session: Session
    job: Job
    deliver: Callable[[Ready | None, list[Event]], Chunk | None]
    resources: ExitStack  # closing it emits the session's events

    @property
    def producer(self) -> Producer:
        return self.session._producer


def step_ready(engine: Engine, sessions: Iterable[Session]) -> list[tuple[Session, Chunk]]:
    """Steps the first sessions that are ready: open, stepped by hand, not paused, and with something to do.

    A session that another thread is stepping, or that is interrupted meanwhile, is left out.
    """
    members: list[_Member] = []
    done: list[tuple[Session, Chunk]] = []
    with ExitStack() as resources, ExitStack() as jobs:
        for session in sessions:
            member = _join(session)
            if member is not None:
                resources.push(member.resources)
                jobs.callback(member.producer.give_up, member.job)  # harmless once it is finished
                members.append(member)
            if len(members) == MOST:
                break
        for steps in sorted({member.job.steps for member in members}):
            company = [member for member in members if member.job.steps == steps]
            for member, ready in zip(company, _generate(engine, company, steps)):
                if ready is None:
                    member.producer.give_up(member.job)  # who interrupted it need not wait for the next company
                chunk = member.deliver(ready, [])
                if chunk is not None:
                    done.append((member.session, chunk))
    return done


def _join(session: Session) -> _Member | None:
    with ExitStack() as stack:
        try:
            deliver = stack.enter_context(session._consuming())
            job = None if session.config.threading == "background" else session._producer.begin()
        except (StateError, SessionClosedError):
            return None
        return None if job is None else _Member(session, job, deliver, stack.pop_all())


def _generate(engine: Engine, company: list[_Member], steps: int) -> list[Ready | None]:
    """The chunk of each; None where there is none. One is finished while others are still being made."""
    done: dict[int, Ready | None] = {}

    def finish(member: _Member, raw: Any) -> Ready | None:
        return member.producer.finish(member.job, raw, hand_out=True)

    with engine.computing():
        active = [member for member in company if member.producer.start(member.job)]
        for member in [m for m in active if not m.job.generates]:
            done[id(member)] = finish(member, member.producer.held(member.job))
        active = [member for member in active if member.job.generates]
        made = engine.generate_together(
            [member.job.stream.state for member in active], [member.job.style for member in active], steps,
            [member.producer.stopper(member.job, alone=len(active) == 1) for member in active],
            lambda i, raw: finish(active[i], raw),
        ) if active else []  # fmt: skip
        done.update((id(member), ready) for member, ready in zip(active, made))
    return [done.get(id(member)) for member in company]
