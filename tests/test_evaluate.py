"""The judges on cases whose answers are known."""
from __future__ import annotations

import math
import secrets

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
from tools.evaluate import codec, contact_sheet, lip_sync, mouth_reader  # noqa: E402


@pytest.fixture
def rng(request) -> np.random.Generator:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # shown when the test fails
    return np.random.default_rng(seed)


def smooth(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.convolve(rng.standard_normal(n + 4), np.ones(5) / 5, "valid")


# ------------------------------------------------------------------ lip sync
def test_a_track_against_itself(rng):
    track = smooth(rng, 90)
    sync = lip_sync.synchrony([(track, track)])
    assert sync.offset == 0
    assert sync.correlation == pytest.approx(1.0)
    assert sync.correlation_at_zero == pytest.approx(1.0)


@pytest.mark.parametrize("late", [-7, -2, 2, 10])
def test_a_shifted_track_gives_its_shift(rng, late):
    long = smooth(rng, 200)
    expected, measured = long[50:150], long[50 - late:150 - late]  # measured[i + late] == expected[i]
    sync = lip_sync.synchrony([(expected, 0.3 * measured + 5)])
    assert sync.offset == late
    assert sync.correlation == pytest.approx(1.0)


def test_one_offset_for_all_sentences(rng):
    """Each sentence may not choose its own offset: that would find agreement in noise."""
    pairs = [(smooth(rng, 100), smooth(rng, 100)) for _ in range(40)]
    assert abs(lip_sync.synchrony(pairs).correlation) < 0.2


def test_tracks_too_short_are_refused(rng):
    with pytest.raises(ValueError, match="frames"):
        lip_sync.synchrony([(np.zeros(20), np.zeros(20))])


def test_a_still_mouth_agrees_with_nothing(rng):
    assert lip_sync.pearson(smooth(rng, 60), np.full(60, 0.4)) == 0.0


def test_loudness_follows_bursts_of_noise(rng):
    frames, hop = 60, 640
    samples = np.zeros(frames * hop, np.float32)
    samples[20 * hop: 30 * hop] = rng.standard_normal(10 * hop) * 0.2
    level = lip_sync.loudness(samples, frames)
    assert level.shape == (frames,)
    assert level[21:29].min() > 0.85
    assert level[:19].max() == level[31:].max() == 0.0
    assert lip_sync.loudness(samples * 0.1, frames) == pytest.approx(level, abs=1e-3)  # volume does not matter
    part = lip_sync.spoken_part(level, margin=5)
    assert part.start <= 16 and part.stop >= 33 and part.stop - part.start >= 3 * lip_sync.REACH


def test_half_frames_to_segments():
    from streamchar_rt.orchestrator.units import END, PAUSE_LONG, PHONE_ID

    spoken = [(0, END, 0)] * 3 + [(1, PHONE_ID["hh"], 0)] * 2 + [(2, PHONE_ID["ay"], 1)] * 5
    spoken += [(3, PHONE_ID["ay"], 0)] * 2 + [(4, PAUSE_LONG, 0)] * 4  # two like phones stay two
    segments = lip_sync.segments_of(spoken, 0.08, 0.02)
    assert [(name, stress) for name, _, _, stress in segments] == [
        ("pau", 0), ("pau", 0), ("hh", 0), ("ay", 1), ("ay", 0), ("pau", 0)]
    assert np.allclose([begin for _, begin, _, _ in segments], [0, 0.08, 0.14, 0.18, 0.28, 0.32])
    assert segments[-1][2] == pytest.approx(0.08 + 0.02 * len(spoken))
    assert all(a[2] == b[1] for a, b in zip(segments, segments[1:]))


# ------------------------------------------------------------------ codec
def test_psnr_of_known_noise(rng):
    truth = torch.from_numpy(rng.random((5, 3, 64, 64), np.float32))
    mask = torch.zeros(5, 1, 64, 64, dtype=torch.bool)
    mask[:, :, 10:50, 5:60] = True
    sigma = 0.05
    noisy = truth + sigma * torch.from_numpy(rng.standard_normal(truth.shape, np.float32))
    noisy[~mask.expand_as(noisy)] = 9.0  # what lies outside does not count
    assert codec.psnr(noisy, truth, mask) == pytest.approx(-20 * math.log10(sigma), abs=0.15)
    assert math.isnan(codec.psnr(noisy, truth, torch.zeros_like(mask)))


def test_alpha_iou_of_squares():
    a, b = torch.zeros(40, 40), torch.zeros(40, 40)
    a[0:20, 0:20] = 1
    b[0:20, 10:30] = 0.9
    assert codec.alpha_iou(a, b) == pytest.approx(200 / 600)
    assert codec.alpha_iou(a, a) == 1.0
    assert codec.alpha_iou(torch.zeros(4, 4), torch.zeros(4, 4)) == 1.0


def test_jumps_at_joins_are_found(rng):
    truth = torch.from_numpy(rng.random((16, 4, 32, 32), np.float32))
    truth[:, 3] = 1
    constant = truth + 0.1  # an error that stays is no jump
    assert codec.temporal_jumps(constant, truth) == pytest.approx((0, 0), abs=1e-3)
    stepped = truth.clone()
    for latent in range(4):
        stepped[4 * latent: 4 * latent + 4, :3] += 0.02 * (-1) ** latent
    join, inside = codec.temporal_jumps(stepped, truth)
    assert join == pytest.approx(0.04 * 255, rel=1e-3)
    assert inside == pytest.approx(0, abs=1e-3)


def test_change_of_pictures_at_joins_and_inside_latents(rng):
    """Of pictures over mid grey: colour that nothing covers does not count, and coverage alone counts half."""
    level = torch.tensor(np.cumsum([0, 1, 1, 1, 3, 1, 1, 1, 3]), dtype=torch.float32) / 255      # 3 at every join
    frames = level[:, None, None, None].expand(9, 4, 6, 5).clone()
    frames[:, 3] = 1
    assert codec.changes(frames) == pytest.approx((3, 1), rel=1e-4)
    frames[:, :3], frames[:, 3] = 0, level[:, None, None]
    assert codec.changes(frames) == pytest.approx((1.5, 0.5), rel=1e-4)


def test_totals_of_a_perfect_and_a_noisy_clip(rng):
    truth = torch.from_numpy(rng.random((8, 4, 32, 32), np.float32))
    truth[:, 3] = 0
    truth[:, 3, 4:28, 4:28] = 1
    boxes = [{"eye_l": (6, 6, 10, 10), "eye_r": (20, 6, 24, 10), "mouth": (10, 20, 20, 26)}] * 8
    estimate = truth.clone()
    estimate[:, :3, 20:27, 10:21] += 0.1  # in the mouth's box only
    totals = codec.Totals()
    totals.add(codec.Sample(truth, estimate, boxes))
    report = totals.report()
    assert report["alpha_iou"] == 1.0
    assert report["psnr_mouth"] == pytest.approx(20, abs=0.01)
    assert report["psnr_eyes"] == pytest.approx(120, abs=1)
    share = 7 * 11 / (24 * 24)
    assert report["psnr_pooled"] == pytest.approx(20 - 10 * math.log10(share), abs=0.01)
    assert report["psnr"] == pytest.approx(report["psnr_pooled"], abs=0.01)


# ------------------------------------------------------------------ mouth reader
def test_the_reader_reads_unseen_faces(rng):
    pytest.importorskip("skia", reason="the studio draws with skia-python")
    from tools.studio.character import Identity, Renderer
    from tools.studio.pose import pose
    from tools.train.pictures import HELD_OUT

    openings = np.linspace(0, 1, 6)
    truth, frames = [], []
    for identity in rng.choice(HELD_OUT, 6, replace=False):
        renderer = Renderer(Identity.from_seed(int(identity)))
        for opening in openings:
            yaw, roll = rng.uniform(-0.6, 0.6, 2)
            frames.append(renderer.draw(pose(mouth_open=opening, yaw=yaw, roll=roll)))
            truth.append(opening)
    reader = mouth_reader.load_reader()
    read = reader.read(np.stack(frames))
    assert lip_sync.pearson(np.array(truth), read) > 0.9
    assert np.abs(read - truth).mean() < 0.12
    # straight and premultiplied pictures are the same picture
    straight = np.stack(frames).astype(np.float32)
    premultiplied = straight.copy()
    premultiplied[..., :3] *= straight[..., 3:] / 255
    assert reader.read(np.round(premultiplied).astype(np.uint8), premultiplied=True) == pytest.approx(read, abs=0.02)


def test_the_crop_holds_the_mouth_in_every_performance(rng):
    pytest.importorskip("skia", reason="the studio draws with skia-python")
    from tools.studio.character import Identity, Renderer
    from tools.train.pictures import performed_track

    left, top, side = mouth_reader.LEFT, mouth_reader.TOP, mouth_reader.SIDE
    for _ in range(20):
        renderer = Renderer(Identity.from_seed(int(rng.integers(2 ** 31))))
        for pose in performed_track(rng, 25):
            x0, y0, x1, y1 = renderer.boxes(pose)["mouth"]
            assert left <= x0 and x1 <= left + side and top <= y0 and y1 <= top + side


def test_the_reader_refuses_other_pictures():
    with pytest.raises(ValueError, match="256"):
        mouth_reader.lower_face(np.zeros((2, 128, 128, 4), np.uint8))


def test_the_reader_is_small():
    assert sum(p.numel() for p in mouth_reader.MouthReader().parameters()) < 100_000
    if mouth_reader.PATH.exists():
        assert mouth_reader.PATH.stat().st_size < 250 * 1024


# ------------------------------------------------------------------ vocoder
def test_resynthesis_reports_what_the_vocoder_lost(rng):
    """A 'vocoder' that says what it is told has no error; one that halves the level is wrong by log 2."""
    vocoder = pytest.importorskip("tools.evaluate.vocoder", reason="needs the recogniser's packages")
    samples = (rng.standard_normal(16_000) * 6000).clip(-32768, 32767).astype(np.int16)
    true = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    _, error = vocoder.resynthesize(lambda mel: true, samples)
    assert error == pytest.approx(0, abs=1e-6)
    _, error = vocoder.resynthesize(lambda mel: true / 2, samples)
    assert error == pytest.approx(math.log(2), abs=1e-3)


# ------------------------------------------------------------------ contact sheet
def test_spectrogram_shows_a_tone_where_it_is():
    t = np.arange(16_000) / 16_000
    samples = np.where(t < 0.5, np.sin(2 * np.pi * 2000 * t), 0.0)
    picture = contact_sheet.spectrogram(samples, width=100, height=161)
    row = int(np.argmin(picture[:, 25]))
    assert abs((1 - row / 160) * 8000 - 2000) < 100
    assert picture[row, 25] < 30 and picture[:, 75].min() > 200


def test_a_page_of_a_turn(rng):
    from streamchar_rt.chunk import Chunk, StageTimings, Viseme, Word
    from streamchar_rt.config import Mode

    timings = StageTimings(0, 0, 0, 0, 0, 0, 0, 4, 0)
    chunks = [
        Chunk(turn_id=1, index=i, pts=10240 * i, duration=0.64,
              audio=(0.1 * rng.standard_normal(10240)).astype(np.float32),
              video=rng.integers(0, 256, (16, 256, 256, 4), np.uint8),
              words=(Word("hi", 0, 10240 * i + 100, 10240 * i + 900),),
              visemes=(Viseme(10, 1.0, 10240 * i, 10240 * (i + 1)),), mode=Mode.SPEAKING, end_of_turn=i == 1,
              discontinuity=False, timings=timings)
        for i in range(2)
    ]  # fmt: skip
    page = contact_sheet.sheet_of(chunks, every=4, columns=4, side=64)
    assert page.width == 4 * 64
    assert page.height > 2 * 64
    assert np.asarray(page).std() > 10
