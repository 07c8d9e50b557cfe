"""The learned judges: what they count and where they look, on cases whose answers are known; and that they learn."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from streamchar_rt.orchestrator.units import FIRST_PHONE, PHONES
from tools.evaluate import phone_judge, sync_expert
from tools.evaluate.distance import edit_distance
from tools.evaluate.phone_judge import BLANK, HeardPhone, PhoneErrors, PhoneJudge, greedy, phone_errors, said_prefix
from tools.evaluate.sync_expert import MEL_PER_FRAME, REACH, SPAN, SyncExpert, best_sync


# ------------------------------------------------------------------ phones
def test_the_best_path_is_read_without_repeats_and_blanks(rng):
    path = [BLANK, 3, 3, BLANK, 3, 5, 5, 5, BLANK, BLANK, 1]
    scores = rng.normal(0, 0.1, (len(path), 1 + len(PHONES)))
    scores[np.arange(len(path)), path] += 5
    assert greedy(scores) == [(1, 3), (4, 3), (5, 5), (10, 1)]
    assert greedy(scores[:0]) == [] and greedy(scores[:1]) == []


def test_phone_errors_are_the_edit_distance(rng):
    for _ in range(20):
        a, b = (list(rng.choice(list("abc"), rng.integers(0, 12))) for _ in range(2))
        assert phone_errors(a, b) == (edit_distance(a, b).errors, len(a))
        # The beginning of the text with the least edits, tried one by one.
        costs = [edit_distance(a[:n], b).errors for n in range(len(a) + 1)]
        assert said_prefix(a, b) == int(np.argmin(costs))
        assert phone_errors(a, b, cut_off=True) == (min(costs), int(np.argmin(costs)))


def test_the_rate_is_over_all_phones(rng):
    counts = [PhoneErrors(int(e), int(n)) for e, n in zip(rng.integers(0, 9, 30), rng.integers(10, 50, 30))]
    rate, error = phone_judge.rate_of(counts)
    assert rate == pytest.approx(sum(c.errors for c in counts) / sum(c.phones for c in counts))
    halves = [phone_judge.rate_of(counts * 4)[1], error]
    assert halves[0] == pytest.approx(error / 2)  # four times as many utterances
    assert phone_judge.rate_of([PhoneErrors(2, 20)] * 5) == (pytest.approx(0.1), pytest.approx(0, abs=1e-12))


def test_errors_are_counted_where_they_are_heard(rng):
    expected = [f"p{i}" for i in rng.permutation(60)]
    times = np.cumsum(rng.uniform(0.05, 0.2, 60))
    said = int(rng.integers(20, 50))  # the stream stops there
    wrong, lost = (int(i) for i in rng.choice(np.arange(2, said - 2), 2, replace=False))
    heard = [HeardPhone("zz" if i == wrong else expected[i], times[i]) for i in range(said) if i != lost]
    errors, at = phone_judge.errors_by_time(expected, heard)
    assert len(errors) == len(at) == said
    assert np.flatnonzero(errors).tolist() == sorted((wrong, lost)) and errors.sum() == 2
    exact = [i for i in range(said) if i not in (wrong, lost)]
    assert at[exact] == pytest.approx(times[exact]) and (np.diff(at) >= 0).all()
    errors, at = phone_judge.errors_by_time(expected, [])
    assert len(errors) == len(at) == 0


def test_the_judge_listens_while_a_voice_speaks(rng):
    speech = pytest.importorskip("tools.evaluate.speech", reason="needs the recogniser's packages")
    from tools.studio.flite import FliteMissingError

    sounds = {text: rng.normal(0, 0.1, 9000).astype(np.float32) for text in ("Good morning.", "Well done!")}
    heard = speech.Heard(sounds.__getitem__, PhoneJudge(), "slt")
    try:
        assert all(heard(text) is sound for text, sound in sounds.items())
    except FliteMissingError as error:
        pytest.skip(str(error))
    assert [c.phones for c in heard.counts] == [len("g uh d m ao r n ih ng".split()), len("w eh l d ah n".split())]
    assert heard.result()["per"] == pytest.approx(sum(c.errors for c in heard.counts) / 15)


def test_neither_gain_nor_a_steady_filter_matters(rng):
    sound = torch.from_numpy(rng.normal(0, 0.1, (1, 16_000)).astype(np.float32))
    lengths = torch.tensor([100])
    plain = phone_judge.centred(phone_judge.log_mel(sound), lengths)
    assert plain.shape == (1, 100, phone_judge.BANDS)
    quiet = phone_judge.centred(phone_judge.log_mel(0.25 * sound), lengths)
    assert torch.allclose(plain, quiet, atol=1e-3)
    tone = torch.sin(2 * np.pi * 1000 * torch.arange(16_000) / 16_000)[None]
    band = int(phone_judge.log_mel(tone)[0, 50].argmax())
    assert phone_judge._FILTERS[band, round(1000 / 16_000 * phone_judge.N_FFT)] > 0


@pytest.mark.parametrize("count", [159, 160, 319, 64 * 160, 64 * 160 + 1, 64 * 160 + 159])
def test_spectra_hold_the_longest_sound(count):
    recogniser = pytest.importorskip("tools.train.recogniser", reason="needs the recogniser's packages")
    mel, lengths = recogniser.spectra([np.zeros(count, np.float32), np.zeros(400, np.float32)])
    assert lengths.tolist() == [count // 160, 2] and mel.shape[1] % 2 == 0 and mel.shape[1] >= max(lengths)


def test_hearing_goes_on_over_any_length(rng, seeded):
    judge = PhoneJudge()
    for count in (0, 1, 100, 700, 13 * 16_000):
        found = judge.hear(rng.normal(0, 0.1, count).astype(np.float32))
        assert [p.at for p in found] == sorted(p.at for p in found)
        assert all(0 <= p.at <= count / 16_000 and p.name in PHONES for p in found)


class Tones:
    """A corpus whose phones are tones of their own."""

    def __init__(self, rng: np.random.Generator, count: int = 24):
        self.utterances = []
        for _ in range(count):
            unit = rng.integers(0, 4, 6) + FIRST_PHONE
            end = np.cumsum(rng.uniform(0.08, 0.16, 6))
            t = np.arange(int(end[-1] * 16_000)) / 16_000
            frequency = 300.0 * 2.0 ** (unit - FIRST_PHONE)[np.minimum(np.searchsorted(end, t, side="right"), 5)]
            samples = (8000 * np.sin(2 * np.pi * np.cumsum(frequency) / 16_000)).astype(np.int16)
            begin = np.concatenate([[0], end[:-1]]).astype(np.float32)
            self.utterances.append(SimpleNamespace(samples=samples, unit=unit.astype(np.uint8), begin=begin,
                                                   end=end.astype(np.float32), voice=0))
        self.lengths = np.array([len(u.samples) for u in self.utterances])

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i: int):
        return self.utterances[i]


def test_frames_are_labelled_where_their_phone_sounds(rng):
    """The spectrum of every labelled frame peaks at its phone's tone, whatever the speed and the silence before."""
    recogniser = pytest.importorskip("tools.train.recogniser", reason="needs the recogniser's packages")
    right = total = 0
    for drawn in recogniser.Utterances(Tones(rng)).draw(8):
        spectrum = phone_judge.log_mel(torch.from_numpy(drawn.samples)[None])[0, : 2 * len(drawn.frames)]
        loudest = spectrum.reshape(len(drawn.frames), 2, -1).mean(1).argmax(1).numpy()
        centre = phone_judge._FILTERS[loudest].argmax(1).numpy() * 16_000 / phone_judge.N_FFT
        sounding = drawn.frames != BLANK
        tone = 300.0 * 2.0 ** (drawn.frames[sounding] - 1)
        right += (np.abs(np.log2(centre[sounding] / tone)) < 0.4).sum()
        total += sounding.sum()
        assert len(drawn.classes) == 6
    assert right > 0.85 * total > 0


def test_the_judge_of_phones_learns(rng, seeded):
    recogniser = pytest.importorskip("tools.train.recogniser", reason="needs the recogniser's packages")
    utterances = recogniser.Utterances(Tones(rng), seed=int(rng.integers(2 ** 31)))
    model, history = recogniser.Trained(), []
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(25):
        values = model.losses(utterances.draw(4), torch.autocast("cpu", enabled=False))
        optimizer.zero_grad()
        values["loss"].backward()
        optimizer.step()
        history.append(float(values["loss"].detach()))
    assert np.isfinite(history).all() and np.mean(history[-3:]) < 0.6 * history[0]


# ------------------------------------------------------------------ sync
def test_one_offset_for_all_clips():
    curve = lambda best, depth: [1.0 - depth * (k == best) for k in range(-REACH, REACH + 1)]
    assert best_sync([curve(3, 0.5)], [1]) == (3, 0.5, 0.5)
    found = best_sync([curve(3, 0.5), curve(-4, 0.3)], [1, 3])
    assert found == (-4, pytest.approx(1 - 0.3 * 0.75), pytest.approx(0.3 * 0.75))


def test_a_late_picture_is_found_late(rng):
    """A judge that reads one track from both: the offset is by how much the picture's track is behind."""
    late, count = int(rng.integers(-REACH, REACH + 1)), 120
    track = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((count, 64))).float(), dim=1)

    class Both(SyncExpert):
        def windows_of_sound(self, mel):
            return track[None, : mel.shape[1] // MEL_PER_FRAME - SPAN + 1]

        def windows_of_picture(self, seen):
            return track.roll(late, 0)[None, : seen.shape[1] - SPAN + 1]

    found = best_sync([Both().distances(np.zeros((count, 48)), np.zeros(count * 640))], [1])
    assert found.offset == late and found.distance < 0.5 < found.confidence
    with pytest.raises(ValueError, match="picture"):
        Both().distances(np.zeros((0, 48)), np.zeros(0))
    assert len(SyncExpert().distances(np.zeros((3, 48)), rng.normal(0, 0.1, 900))) == 2 * REACH + 1


def test_windows_of_both_hold_the_same_nine_frames(rng, seeded):
    expert, frames = SyncExpert().eval(), 40
    at = int(rng.integers(SPAN, frames - SPAN))
    changed = lambda a, b: set(np.flatnonzero(((a - b).abs().amax(-1) > 1e-6)[0].numpy()))
    holding = set(range(at - SPAN + 1, at + 1))
    with torch.no_grad():
        seen, mel = torch.randn(1, frames, 48), torch.randn(1, MEL_PER_FRAME * frames, 64)
        other = seen.clone()
        other[0, at] += 5 * torch.randn(48)
        found = changed(expert.windows_of_picture(seen), expert.windows_of_picture(other))
        assert found and found <= holding
        other = mel.clone()
        middle = MEL_PER_FRAME * at + 1
        other[0, middle: middle + 2] += 5 * torch.randn(2, 64)
        heard = changed(expert.windows_of_sound(mel), expert.windows_of_sound(other))
    # A window of sound reaches 30 ms over its frames either way.
    assert heard and heard <= holding | {at - SPAN, at + 1}


def test_the_sync_expert_learns(rng, seeded):
    """Mouths as open as the sound is loud."""
    training = pytest.importorskip("tools.train.sync_expert", reason="the studio draws with skia-python")
    scenes, direction = [], rng.standard_normal(sync_expert.VIEW)
    for _ in range(4):
        level = rng.uniform(-2, 2, 60)
        views = np.stack([level[:, None] * direction] * training.VIEWS)
        scenes.append(training.Scene(views, np.repeat(level, MEL_PER_FRAME)[:, None] + np.zeros((1, 64))))
    expert, history = SyncExpert(), []
    optimizer = torch.optim.AdamW(expert.parameters(), 3e-3)
    for _ in range(20):
        values = training.contrast(expert, *training.cut(scenes, 4, rng), torch.autocast("cpu", enabled=False))
        optimizer.zero_grad()
        values["loss"].backward()
        optimizer.step()
        history.append(float(values["loss"].detach()))
    assert np.isfinite(history).all() and np.mean(history[-3:]) < 0.8 * history[0]


# ------------------------------------------------------------------ what is shipped
@pytest.mark.parametrize(("path", "load", "limit"), [
    (phone_judge.PATH, phone_judge.load_judge, 2 ** 20), (sync_expert.PATH, sync_expert.load_expert, 2 ** 20)])
def test_shipped_weights_load_and_are_small(path, load, limit):
    assert path.stat().st_size < limit and not load(path).training
