"""Pauses of a told length in a plan, against a walk along it."""
import numpy as np
import torch

from streamchar_rt.holds import NOT_HELD, elapsed_along, held_units, with_holds
from streamchar_rt.orchestrator.alignment import elapsed_in


def _random_path(rng, steps: int, first: int) -> np.ndarray:
    path = np.cumsum(rng.random(steps) < rng.choice([0.05, 0.3, 0.9]))
    return path + first


def _walk(path: list[int], first: int, hold: list[int]) -> list[int]:
    """Unit by unit: its half-frames of the path, or as many as it is held for where the path leaves it."""
    out: list[int] = []
    for unit in range(first, path[-1]):
        out += [unit] * (path.count(unit) if hold[unit] == NOT_HELD else hold[unit])
    return (out + [path[-1]] * len(path))[: len(path)]


def test_units_last_as_long_as_they_are_held(rng):
    for _ in range(500):
        steps, first = int(rng.integers(1, 50)), int(rng.integers(0, 5))
        path = _random_path(rng, steps, first)
        hold = np.where(rng.random(first + steps + 2) < rng.choice([0.0, 0.2, 1.0]), rng.integers(0, 12, first + steps + 2),
                        NOT_HELD)
        found = with_holds(torch.from_numpy(path), first, torch.from_numpy(hold))
        assert found.tolist() == _walk(path.tolist(), first, hold.tolist())
        if (hold == NOT_HELD).all():
            assert found.tolist() == path.tolist()
        elapsed = int(rng.integers(1, 20))
        whole = _random_path(rng, steps, first)    # a unit held for no time is skipped: nothing has begun there
        assert elapsed_along(torch.from_numpy(whole), first, torch.tensor(elapsed)).tolist() == elapsed_in(
            whole, elapsed, first).tolist()


def test_places_in_the_window_are_found(rng):
    holds = {int(place): int(rng.integers(0, 40)) for place in rng.choice(60, 12, replace=False)}
    first, window = int(rng.integers(0, 40)), int(rng.integers(1, 24))
    assert held_units(holds, first, window).tolist() == [
        holds.get(place, NOT_HELD) for place in range(first, first + window)]
