"""Guidance that is folded into a student: what it learns is the teacher's guided velocity."""
from argparse import Namespace

import pytest
import torch

from tools.train.batches import StreamSampler
from tools.train.denoiser import AUDIO_WEIGHT, Batches, Denoiser, Kind
from tools.train.distill import unpack
from tools.train.few_step import velocity
from tools.train.guided import losses
from tools.train.loop import Loop

from .small_training import CONDITION, DIT, randomised, small_streams
from .test_device_training import small_scenes

CPU = torch.device("cpu")
PLAIN = torch.autocast("cpu", enabled=False)


@pytest.fixture
def batches(rng) -> Batches:
    streams = small_streams(rng)
    return Batches(StreamSampler(streams, held_out=4, seed=int(rng.integers(2 ** 31))), small_scenes(streams, rng), 2, CPU)


def denoiser() -> Denoiser:
    return randomised(Denoiser(DIT, CONDITION)).eval()


def batch_of(batches: Batches, picture: bool):
    return batches.build(Kind(picture, picture, True), batches.choose(3, picture)[1])


@pytest.mark.parametrize("picture", [True, False])
def test_the_loss_is_the_distance_to_the_guided_velocity(batches, seeded, monkeypatch, picture):
    """Beside a plain computation, where every noisy chunk brings its own context."""
    student, teacher, guidance, draws = denoiser(), denoiser(), (1.5, 2.5), 2
    batch, seen = batch_of(batches, picture), []

    def spy(net, given, noisy, t, *told):
        seen.append((net, given, noisy, t, *told))
        return velocity(net, given, noisy, t, *told)

    for module in ("guided", "few_step"):
        monkeypatch.setattr(f"tools.train.{module}.velocity", spy)
    with torch.no_grad():
        found = losses(student, teacher, batch, draws, guidance, PLAIN)
    (asked, given, noisy, t), (other, *_) = seen
    assert asked is student and other is teacher and len(t) == 3 * draws
    errors: list[list[torch.Tensor]] = [[], []]
    units = []
    with torch.no_grad():
        for i in range(len(t)):
            one = slice(i // draws, i // draws + 1)
            pair = lambda parts: None if parts is None else tuple(x[one] for x in parts)
            own = type(given)(None if given.reference is None else given.reference[one], pair(given.sink), pair(given.motion),
                              given.features[one], type(given.style)(*(x[one] for x in vars(given.style).values())))
            x, at = tuple(y[i: i + 1] for y in noisy), t[i: i + 1]
            ask = lambda net, told: velocity(net, own, x, at, torch.full((1, 1, 1), told))
            for k, (s, c, u) in enumerate(zip(ask(student, 1.0), ask(teacher, 1.0), ask(teacher, 0.0))):
                errors[k].append((s - (u + guidance[k] * (c - u))).square())
            variance = student.dit.config.audio_variance
            units.append(((1 - at) ** 2 + at ** 2 * variance) / variance)
    audio = torch.stack([e.mean() * w for e, w in zip(errors[1], units)]).mean()
    expected = AUDIO_WEIGHT * audio + (torch.cat(errors[0]).mean() if picture else 0.0)
    assert torch.allclose(found["loss"], expected, rtol=1e-4)


def test_a_student_that_is_its_unguided_teacher_has_nothing_to_learn(batches, seeded):
    net = denoiser()
    with torch.no_grad():
        for picture in (True, False):
            assert losses(net, net, batch_of(batches, picture), 2, (1.0, 1.0), PLAIN)["loss"] < 1e-9
            assert losses(net, net, batch_of(batches, picture), 2, (1.0, 2.0), PLAIN)["loss"] > 1e-6


def test_it_learns(batches, seeded, tmp_path):
    """The student comes nearer on chunks that it has not seen; the teacher, and the mean mel, stay."""
    teacher, student = denoiser(), Denoiser(DIT, CONDITION)
    student.load_state_dict(teacher.state_dict())
    student.condition.requires_grad_(False)
    loop = Loop(student, Namespace(minutes=1e6, lr=3e-3, out=tmp_path, device="cpu", threads=1, seed=0, init=None), warmup=5)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    fixed = batch_of(batches, True)

    def distance() -> float:
        torch.manual_seed(5)
        with torch.no_grad():
            return float(losses(student, teacher, fixed, 4, (2.0, 2.0), PLAIN)["loss"])

    first = distance()
    for i in range(200):
        loop._update(lambda _: losses(student, teacher, batch_of(batches, i % 2 == 0), 2, (2.0, 2.0), PLAIN))
        loop.iteration += 1
    assert distance() < 0.7 * first
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(torch.equal(v, before[f"condition.{k}"]) for k, v in student.condition.state_dict().items())
    truth, given = unpack(fixed)
    with torch.no_grad():
        assert all(torch.isfinite(x).all() for x in velocity(student, given, truth, torch.full((3,), 0.5)))
