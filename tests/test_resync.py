"""The pointer that has left the speech: found, and brought back. Against walks along paths, and on the shipped model."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from streamchar_rt import Engine, pipeline
from streamchar_rt.model_state import _Units
from streamchar_rt.orchestrator.alignment import monotonic_path
from streamchar_rt.orchestrator.condition import LONGEST
from streamchar_rt.orchestrator.units import FIRST_PHONE, NUM_UNITS, PAUSE_LONG, PAUSE_SHORT
from streamchar_rt.planner import Plan
from streamchar_rt.resync import JUMPED, LEAP, PAUSE, PHONE, STALLED, checked_path_on_device, leaps, steady_lengths, steady_path

SLOTS, AHEAD, BEFORE, WINDOW = 32, 8, 4, 40
TEXT = "Very very very many people were waiting there."


# ------------------------------------------------------------------ on random plans
def random_plan(rng, stalled: bool = False, more: int = WINDOW) -> Plan:
    config = SimpleNamespace(window_before=BEFORE, window=WINDOW, slots=SLOTS, lookahead=AHEAD)
    models = SimpleNamespace(orchestrator=SimpleNamespace(config=config),
                             orchestration=SimpleNamespace(conditions=lambda rows, voices: None))
    units = _Units()
    kinds = np.where(rng.random(more) < 0.1, rng.integers(PAUSE_SHORT, PAUSE_LONG + 1, more),
                     rng.integers(FIRST_PHONE, NUM_UNITS, more))
    units.rows += [(int(kind), 0, 0) for kind in kinds]
    pointer = int(rng.integers(0, min(10, more)))
    return Plan(SimpleNamespace(models=models, units=units, pointer=pointer, elapsed=int(rng.integers(0, 20)), holds={},
                                stalled=stalled, past=np.zeros((8, 4), np.int64)), SimpleNamespace(voice=0))


def logits_at(path: np.ndarray) -> torch.Tensor:
    out = torch.full((SLOTS + AHEAD, WINDOW), -50.0)
    out[range(len(path)), path] = 50.0
    return out


def test_a_steady_path_is_a_walk(rng):
    for _ in range(200):
        plan = random_plan(rng, more=int(rng.integers(1, 60)))
        unit, spent, walk = BEFORE, plan.state.elapsed + 1, []
        lengths = steady_lengths(plan.rows[:, 0])
        for _ in range(SLOTS + AHEAD):
            kind = plan.rows[unit, 0]
            length = PHONE if kind >= FIRST_PHONE else PAUSE if kind >= PAUSE_SHORT else 1
            assert lengths[unit] == length
            if spent >= length and unit + 1 < WINDOW and not plan.blocked[unit + 1]:
                unit, spent = unit + 1, 0
            walk.append(unit)
            spent += 1
        found = steady_path(lengths, plan.blocked, BEFORE, plan.state.elapsed + 1, SLOTS + AHEAD)
        assert found.tolist() == walk


def test_leaps_are_runs_of_shortest_phones(rng):
    paths, minimums, wanted = [], [], []
    for _ in range(300):
        lengths = np.where(rng.random(WINDOW) < rng.choice([0.3, 0.9, 1.0]), 2, rng.integers(1, 6, WINDOW))
        first = int(rng.integers(0, 6))
        path = np.repeat(np.arange(WINDOW), lengths)
        path = path[path >= first][: SLOTS + AHEAD]
        minimum = np.where(rng.random(WINDOW) < 0.05, 1, 2)
        run = most = 0
        for unit in range(path[0] + 1, path[-1]):
            run = run + 1 if minimum[unit] == 2 and (path == unit).sum() <= 2 else 0
            most = max(most, run)
        paths.append(torch.from_numpy(path))
        minimums.append(torch.from_numpy(minimum))
        wanted.append(most >= LEAP)
        assert bool(leaps(paths[-1], minimums[-1])) == wanted[-1]
    assert leaps(torch.stack(paths), torch.stack(minimums)).tolist() == wanted and 0 < sum(wanted) < 300
    assert not leaps(torch.zeros(3, dtype=torch.long), torch.full((LEAP - 1,), 2))


def test_a_leap_is_walked(rng):
    """Wherever the pointer leaps to, the units on the way last as long as at a steady pace; the host's plan and the
    device's agree. A path without a leap stays as it is."""
    for _ in range(100):
        plan = random_plan(rng)
        at, far = int(rng.integers(0, SLOTS)), int(rng.integers(12, WINDOW - BEFORE - 2))
        path = np.where(np.arange(SLOTS + AHEAD) < at, BEFORE, BEFORE + far)
        noisy = logits_at(path) + torch.randn(SLOTS + AHEAD, WINDOW)
        plan.follow(noisy)
        masked = np.where(plan.blocked, -np.inf, noisy.numpy().astype(np.float64))
        own = monotonic_path(masked, BEFORE, minimum=plan.minimum, elapsed=plan.state.elapsed + 1)
        leapt = bool(leaps(*map(torch.from_numpy, (own, plan.minimum))))
        assert plan.astray == (JUMPED if leapt else None) and (leapt or plan.path.tolist() == own.tolist())
        unit = np.arange(WINDOW)
        whole = (plan.rows[:, 0] >= FIRST_PHONE) & (unit > plan.path[0]) & (unit < plan.path[-1])
        assert (np.bincount(plan.path, minlength=WINDOW)[whole] >= (PHONE if leapt else 2)).all()
        assert (np.diff(plan.path) >= 0).all() and (np.diff(plan.path) <= 1).all()
        tensors = {name: torch.from_numpy(getattr(plan, name)) for name in ("minimum", "steady")}
        found, spent, jumped = checked_path_on_device(
            noisy.double().masked_fill(torch.from_numpy(plan.blocked), float("-inf")), BEFORE, **tensors,
            elapsed=torch.tensor(plan.state.elapsed + 1))
        assert found.tolist() == plan.path.tolist() and spent.clamp(max=LONGEST).tolist() == plan.elapsed.tolist()
        assert bool(jumped) == (plan.astray == JUMPED)
        calm = random_plan(rng)
        natural = steady_path(rng.integers(3, 9, WINDOW), calm.blocked, BEFORE, 0, SLOTS + AHEAD)
        calm.follow(logits_at(natural))
        assert calm.astray is None and np.abs(calm.path - natural).max() <= 1


def test_a_pointer_that_stands_still_is_pushed_until_it_moves(rng):
    still = logits_at(np.full(SLOTS + AHEAD, BEFORE))
    free = random_plan(rng)
    free.follow(still)
    assert free.astray is None and (free.path == BEFORE).all()
    pushed = random_plan(rng, stalled=True)
    pushed.follow(still)
    assert pushed.astray == STALLED and pushed.path[-1] > BEFORE + 3
    lengths = steady_lengths(pushed.rows[:, 0])
    assert pushed.path.tolist() == steady_path(lengths, pushed.blocked, BEFORE, pushed.state.elapsed + 1, SLOTS + AHEAD).tolist()
    moving = random_plan(rng, stalled=True)
    moving.follow(logits_at(BEFORE + np.arange(SLOTS + AHEAD) // 6))
    assert moving.astray is None


# ------------------------------------------------------------------ the session's loop
@pytest.fixture(scope="module")
def mini():
    with Engine.load("mini", threads=1) as engine:
        yield engine


def say(engine: Engine, monkeypatch, text: str, place: object, most: int = 60, back_after: int | None = None):
    """Words, events and the pointer's ways astray of a turn whose pointer's logits are all at ``place`` of the window;
    from chunk ``back_after`` on they are the model's."""
    as_trained, chunks, astray, events = pipeline.align, [], [], []

    def lost(models, states, mels, t):
        logits = as_trained(models, states, mels, t)
        if place is None or back_after is not None and len(chunks) >= back_after:
            return logits
        return [torch.full_like(one, -50.0).index_fill_(1, torch.tensor([place]), 50.0) for one in logits]

    finished = pipeline._advance
    monkeypatch.setattr(pipeline, "align", lost)
    monkeypatch.setattr(pipeline, "_advance", lambda *args: astray.append((raw := finished(*args)).astray) or raw)
    with engine.session(engine.characters()[0], seed=3, steps=1) as session:
        session.on_event(lambda name, details: events.append((len(chunks), name, dict(details))))
        session.say(text)
        for chunk in session.turn():
            chunks.append(chunk)
            assert len(chunks) < most
    monkeypatch.undo()
    warnings = [(at, details["kind"]) for at, name, details in events if name == "warning"]
    return [word for chunk in chunks for word in chunk.words], warnings, astray


def test_no_word_is_lost_where_the_pointer_stands_still(mini, monkeypatch):
    before = mini.models.orchestrator.config.window_before
    words, warnings, astray = say(mini, monkeypatch, TEXT, before)
    assert [word.text for word in words] == TEXT.rstrip(".").split()
    assert [kind for _, kind in warnings] == [STALLED] and warnings[0][0] <= 5
    assert STALLED in astray and all(word.end_pts > word.begin_pts for word in words)
    # The model takes over where it moves by itself.
    words, _, astray = say(mini, monkeypatch, TEXT, before, back_after=6)
    assert [word.text for word in words] == TEXT.rstrip(".").split() and set(astray[6:]) == {None}


def test_no_word_is_lost_where_the_pointer_leaps(mini, monkeypatch):
    """Words last, each of them, about as long as they do where the model leads."""
    words, warnings, astray = say(mini, monkeypatch, TEXT, mini.models.orchestrator.config.window_before + 20)
    assert [word.text for word in words] == TEXT.rstrip(".").split()
    assert JUMPED in astray and {kind for _, kind in warnings} == {JUMPED}
    seconds = lambda words: np.array([word.end_pts - word.begin_pts for word in words]) / 16_000
    usual, quiet, ways = say(mini, monkeypatch, TEXT, None)
    assert quiet == [] and set(ways) == {None}
    assert seconds(words).sum() > 0.6 * seconds(usual).sum()


def test_a_long_pause_is_no_stall(mini, monkeypatch):
    words, warnings, astray = say(mini, monkeypatch, "Wait [pause 4] for me.", None)
    assert [word.text for word in words] == ["Wait", "for", "me"] and warnings == [] and set(astray) == {None}
    assert words[1].begin_pts - words[0].end_pts > 3.5 * 16_000
