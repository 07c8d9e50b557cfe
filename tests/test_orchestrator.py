"""Alignment against exhaustive search; the condition's window; the pointer."""
import numpy as np
import pytest
import torch

from streamchar_rt.orchestrator.alignment import elapsed_in, monotonic_path
from streamchar_rt.orchestrator.condition import FEATURES, ConditionEncoder, alignment_features, time_left
from streamchar_rt.orchestrator.model import Orchestrator, TranscriptWindow, pointer_position
from streamchar_rt.orchestrator.units import NUM_UNITS, PAD


def _by_definition(logits: np.ndarray, first: int, minimum: np.ndarray, elapsed: int) -> list[int]:
    """Frame by frame: go on to the next unit once it is due and the present one has lasted long enough."""
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    at, spent, due, path = first, elapsed, first, []
    for row in probability:
        due = max([due] + [w for w in range(len(row)) if row[w:].sum() >= 0.5])
        if at < due and spent >= minimum[at]:
            at, spent = at + 1, 0
        path.append(at)
        spent += 1
    return path


def test_path_follows_its_definition(rng):
    for _ in range(200):
        steps, width = int(rng.integers(1, 12)), int(rng.integers(1, 7))
        logits = rng.normal(size=(steps, width)) * 3
        first, elapsed = int(rng.integers(0, width)), int(rng.integers(1, 4))
        minimum = rng.integers(1, 4, width)
        path = monotonic_path(logits, first, minimum=minimum, elapsed=elapsed)
        assert path.tolist() == _by_definition(logits, first, minimum, elapsed)


def test_a_certain_pointer_is_followed(rng):
    durations = rng.integers(2, 6, 8)
    truth = np.repeat(np.arange(8), durations)
    logits = np.where(np.arange(8) == truth[:, None], 20.0, -20.0)
    assert monotonic_path(logits, 0, minimum=np.full(8, 2)).tolist() == truth.tolist()


def test_blocked_units_are_never_chosen(rng):
    logits = rng.normal(size=(40, 32))
    logits[:, :6] = -np.inf
    logits[:, 20:] = -np.inf
    path = monotonic_path(logits, 6, minimum=np.ones(32, int))
    assert path.min() >= 6 and path.max() < 20
    assert (np.diff(path) >= 0).all() and (np.diff(path) <= 1).all()


def test_elapsed_counts_from_the_units_beginning():
    assert elapsed_in(np.array([4, 4, 5, 5, 5]), before=3, previous=4).tolist() == [3, 4, 0, 1, 2]
    assert elapsed_in(np.array([5, 5]), before=3, previous=4).tolist() == [0, 1]


def test_condition_looks_at_its_own_time(seeded):
    """A change of one half-frame reaches only tokens within the convolutions' sight, picture and sound alike."""
    encoder = ConditionEncoder().eval()
    reach = 2 * encoder.config.depth                          # half-frames to either side
    features, voice = torch.zeros(1, 48, FEATURES), torch.tensor([1])
    changed = features.clone()
    at = 16                                                   # half-frame of the chunk
    changed[0, 8 + at, 10] = 1.0
    with torch.no_grad():
        (v0, a0), (v1, a1) = encoder(features, voice), encoder(changed, voice)
    audio = (a0 != a1).any(-1)[0].nonzero()[:, 0].tolist()
    assert audio == [n for n in range(16) if 2 * n <= at + reach and 2 * n + 1 >= at - reach]
    video = (v0 != v1).any(-1)[0].nonzero()[:, 0].tolist()
    # Picture latent n shows half-frames 8n - 4 to 8n + 3 of the mel, which leads it by four.
    assert video == [n for n in range(4) if 8 * n - 4 <= at + reach and 8 * n + 3 >= at - reach]


def test_alignment_features_say_unit_and_times():
    unit, stress, start = torch.tensor([3, 3, 7, 7, 7]), torch.tensor([2, 2, 0, 0, 0]), torch.tensor([1, 1, 0, 0, 0])
    f = alignment_features(unit, stress, start, torch.tensor([40, 41, 0, 1, 2]))
    assert f.shape == (5, FEATURES) and (f[:, :NUM_UNITS].argmax(-1) == unit).all() and (f[:, :NUM_UNITS].sum(-1) == 1).all()
    assert (f[:, NUM_UNITS:NUM_UNITS + 3].argmax(-1) == stress).all() and (f[:, NUM_UNITS + 3] == start).all()
    since, left = torch.tensor([15, 15, 0, 1, 2]), torch.tensor([2, 1, 3, 2, 1])         # the window's end counts as an end
    assert torch.allclose(f[:, -3:-1] * 15, torch.stack([since, left], -1).float())
    assert torch.allclose(f[:, -1], (since + 0.5) / (since + left))


@pytest.mark.parametrize("_", range(3))
def test_time_left_counts_to_the_next_beginning(rng, _):
    elapsed = np.where(rng.random((3, 48)) < 0.2, 0, rng.integers(1, 15, (3, 48)))
    want = [[next((k - t for k in range(t + 1, 48) if row[k] == 0), 48 - t) for t in range(48)] for row in elapsed]
    assert time_left(torch.from_numpy(elapsed)).tolist() == want


def test_padding_of_the_window_changes_nothing(seeded):
    net = Orchestrator().eval()
    window = TranscriptWindow(torch.randint(1, NUM_UNITS, (1, 32)), torch.randint(0, 3, (1, 32)), torch.randint(0, 2, (1, 32)))
    window.unit[:, 20:] = PAD
    other = TranscriptWindow(window.unit, window.stress.clone(), window.word_start.clone())
    other.stress[:, 20:] = 2 - other.stress[:, 20:]
    history, noisy = torch.randn(1, 32, 160), torch.randn(1, 32, 80)
    with torch.no_grad():
        results = [net.align(net.encode(w, history, torch.tensor([0])), noisy, torch.tensor([0.4])) for w in (window, other)]
    (a, offset_a), (b, offset_b) = results
    assert torch.isinf(a[..., 20:]).all() and a[..., :20].isfinite().all()
    assert torch.allclose(a[..., :20], b[..., :20], atol=1e-5) and torch.allclose(offset_a, offset_b, atol=1e-5)


def test_pointer_position_is_clamped_and_weighted():
    logits = torch.full((1, 4), -30.0)
    logits[0, 2] = 30.0
    assert torch.isclose(pointer_position(logits, torch.tensor([0.25])), torch.tensor([2.25])).all()
    logits = torch.tensor([[-30.0, -30.0, -30.0, 30.0]])
    assert float(pointer_position(logits, torch.tensor([5.0]))) == 4.0
