"""The picture studio: identities, drawing and behaviour, checked against what can be seen and counted."""

from __future__ import annotations

import random

import numpy as np
import pytest

from streamchar_rt.orchestrator.units import PHONES, VOWELS
from tools.studio.behaviour import EMOTIONS, IDLE, LISTENING, SPEAKING, perform
from tools.studio.pose import COLUMN, POSE_FIELDS, POSE_RANGES, REST, pose
from tools.studio.visemes import MOUTH_SHAPES, PHONE_TO_VISEME, VISEMES

FPS = 25
LOW = np.array([POSE_RANGES[f][0] for f in POSE_FIELDS])
HIGH = np.array([POSE_RANGES[f][1] for f in POSE_FIELDS])


@pytest.fixture
def seed() -> int:
    value = random.SystemRandom().randrange(2**31)
    print(f"seed {value}")
    return value


@pytest.fixture
def studio():
    """The drawing module; skips where skia or the system libraries it loads are absent."""
    pytest.importorskip(
        "skia", exc_type=ImportError, reason="skia-python needs libegl1, libgl1 and libfontconfig1 to draw"
    )
    from tools.studio import character

    return character


def random_pose(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(LOW, HIGH).astype(np.float32)


# --- identities and drawing ------------------------------------------------------------------


def test_a_seed_gives_one_character(studio, seed):
    one, two = studio.Identity.from_seed(seed), studio.Identity.from_seed(seed)
    assert one == two
    p = random_pose(np.random.default_rng(seed))
    a, b = studio.Renderer(one), studio.Renderer(two)
    a.draw(REST)  # what was drawn before must not matter
    assert np.array_equal(a.draw(p), b.draw(p))


def test_seeds_give_visibly_different_characters(studio, seed):
    pictures = np.stack(
        [studio.Renderer(studio.Identity.from_seed(seed + i), 64).draw(REST, premultiplied=True) for i in range(48)]
    ).astype(np.float32)
    nearest = min(np.abs(pictures[i] - pictures[j]).mean() for i in range(len(pictures)) for j in range(i))
    assert nearest > 4.0, "two of 48 characters look alike"


@pytest.mark.parametrize("size", [64, 192, 256])
def test_picture_shape_and_alpha(studio, seed, size):
    rng = np.random.default_rng(seed)
    for i in range(6):
        r, p = studio.Renderer(studio.Identity.from_seed(seed + i), size), random_pose(rng)
        multiplied, straight = r.draw(p, premultiplied=True), r.draw(p)
        for picture in (multiplied, straight):
            assert picture.shape == (size, size, 4) and picture.dtype == np.uint8
        alpha = multiplied[..., 3:].astype(int)
        assert (multiplied[..., :3] <= alpha).all()
        assert np.array_equal(straight[..., 3], multiplied[..., 3])
        back = straight[..., :3] * (alpha / 255)
        assert np.abs(back - multiplied[..., :3]).max() <= 1.5
        assert 0.35 < (alpha > 250).mean() < 0.95, "the figure fills most of the frame, not all of it"
        assert not alpha[: size // 16, : size // 16].any(), "the background is transparent"


def test_drawn_pictures_are_not_shared(studio, seed):
    r = studio.Renderer(studio.Identity.from_seed(seed))
    first = r.draw(REST, premultiplied=True)
    kept = first.copy()
    r.draw(pose(mouth_open=1, yaw=1), premultiplied=True)
    assert np.array_equal(first, kept)


def test_wrong_pose_and_size_are_refused(studio):
    who = studio.Identity.from_seed(0)
    with pytest.raises(ValueError, match="fields"):
        studio.Renderer(who).draw(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="size"):
        studio.Renderer(who, 8)


def changed(r, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How much each pixel changes between two poses."""
    x, y = (r.draw(p, premultiplied=True).astype(int) for p in (a, b))
    return np.abs(x - y).sum(-1)


def share_inside(difference: np.ndarray, *boxes: tuple[float, float, float, float]) -> float:
    mask = np.zeros(difference.shape, bool)
    for x0, y0, x1, y1 in boxes:
        mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return difference[mask].sum() / max(1, difference.sum())


def test_boxes_hold_eyes_and_mouth(studio, seed):
    rng = np.random.default_rng(seed)
    for i in range(12):
        r = studio.Renderer(studio.Identity.from_seed(seed + i))
        head = dict(zip(("yaw", "pitch", "roll", "head_x", "head_y"), map(float, rng.uniform(-1, 1, 5))))
        rest = pose(**head)
        boxes = r.boxes(rest)
        assert set(boxes) == {"eye_l", "eye_r", "mouth"}
        for name, field in (("eye_l", "blink_l"), ("eye_r", "blink_r")):
            d = changed(r, rest, pose(**head, **{field: 1.0}))
            assert d.sum() > 5000
            assert share_inside(d, boxes[name]) > 0.99, name
        wide = pose(**head, mouth_open=0.6, mouth_wide=1.0, teeth=0.5)
        narrow = pose(**head, mouth_open=0.6, mouth_round=1.0)
        assert share_inside(changed(r, wide, narrow), boxes["mouth"]) > 0.99
        # A falling jaw moves the chin below the box as well, and nothing else.
        opened = changed(r, rest, pose(**head, mouth_open=1.0))
        x0, y0, x1, y1 = boxes["mouth"]
        assert share_inside(opened, (x0 - 45, y0 - 4, x1 + 45, min(256, y1 + 25))) > 0.99
        assert share_inside(opened, boxes["mouth"]) > 0.5


def test_mouth_is_large_enough_to_read(studio, seed):
    for i in range(8):
        r = studio.Renderer(studio.Identity.from_seed(seed + i))
        d = changed(r, pose(smile=0), pose(smile=0, mouth_open=0.9))
        x0, y0, x1, y1 = map(int, r.boxes(pose())["mouth"])
        rows, columns = np.nonzero(d[y0:y1, x0:x1] > 60)
        assert np.ptp(columns) >= 34 and np.ptp(rows) >= 15


def test_visemes_look_different(studio, seed):
    from tools.studio.visemes import MOUTH_FIELDS

    r = studio.Renderer(studio.Identity.from_seed(seed))
    shots = [
        r.draw(pose(**dict(zip(MOUTH_FIELDS, map(float, shape)))), premultiplied=True).astype(int)
        for shape in MOUTH_SHAPES
    ]
    for i in range(len(shots)):
        for j in range(i):
            assert np.abs(shots[i] - shots[j]).sum() > 1500, (VISEMES[i], VISEMES[j])


@pytest.mark.parametrize("field", POSE_FIELDS)
def test_every_field_moves_the_picture_smoothly(studio, seed, field):
    """A hundredth of a field's range changes the picture a little, and its whole range a lot more."""
    low, high, _ = POSE_RANGES[field]
    base = dict(mouth_open=0.5) if field in ("teeth", "tongue") else {}
    if field == "hair_sway":  # needs long hair
        seed = next(s for s in range(seed, seed + 999) if studio.Identity.from_seed(s).back == "long")
    r = studio.Renderer(studio.Identity.from_seed(seed))
    middle = low + 0.5 * (high - low)
    at = lambda v: pose(**{**base, field: v})
    small = changed(r, at(middle), at(middle + 0.01 * (high - low))).sum()
    large = changed(r, at(low), at(high)).sum()
    assert large > 800
    assert small < 0.2 * large


def test_cast_is_drawn_and_distinct(studio):
    from tools.studio.cast import CAST

    assert 6 <= len(CAST) <= 12 and len(set(CAST.values())) == len(CAST)
    shots = [studio.Renderer(studio.Identity.from_seed(s), 64).draw(REST).astype(int) for s in CAST.values()]
    assert min(np.abs(a - b).mean() for i, a in enumerate(shots) for b in shots[:i]) > 8


def test_sheet_command_writes_a_picture(studio, tmp_path):
    from tools.studio import sheet

    target = tmp_path / "sheet.png"
    sheet.main(["-o", str(target), "--seeds", "1", "2", "3", "--columns", "2", "--size", "64"])
    skia = pytest.importorskip("skia")
    assert skia.Image.open(str(target)).dimensions() == skia.ISize(128, 128)


# --- behaviour -------------------------------------------------------------------------------


def speech(rng: np.random.Generator, seconds: float, at: float = 0.3) -> list[tuple[str, float, float, int]]:
    """Random phones with natural durations."""
    segments = []
    while at < seconds - 0.6:
        phone = str(rng.choice(PHONES))
        length = rng.uniform(0.09, 0.2) if phone in VOWELS else rng.uniform(0.04, 0.1)
        segments.append((phone, at, at + length, int(rng.integers(3)) if phone in VOWELS else 0))
        at += length
    return segments


def column(track: np.ndarray, field: str) -> np.ndarray:
    return track[:, COLUMN[field]]


def test_every_phone_has_a_viseme():
    assert set(PHONES) <= set(PHONE_TO_VISEME)
    assert len(VISEMES) == len(MOUTH_SHAPES) == 15
    assert set(PHONE_TO_VISEME.values()) == set(range(15))


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_performance_is_complete_and_in_range(seed, emotion):
    rng = np.random.default_rng(seed)
    for n in (0, 1, 16, 333):
        track = perform(speech(rng, n / FPS), n, emotion=emotion, seed=seed)
        assert track.shape == (n, len(POSE_FIELDS)) and track.dtype == np.float32
        assert np.isfinite(track).all()
        assert (track >= LOW - 1e-6).all() and (track <= HIGH + 1e-6).all()


def test_performance_repeats_by_seed(seed):
    segments = speech(np.random.default_rng(seed), 6)
    assert np.array_equal(perform(segments, 150, seed=seed), perform(segments, 150, seed=seed))
    assert not np.array_equal(perform(segments, 150, seed=seed), perform(segments, 150, seed=seed + 1))


@pytest.mark.parametrize("emotion", ["neutral", "happy", "surprised"])
def test_closures_are_always_reached(seed, emotion):
    rng = np.random.default_rng(seed)
    segments, at = [], 0.2
    for _ in range(120):  # closures as short as 25 ms between open vowels
        closure = str(rng.choice(["p", "b", "m", "f", "v"]))
        for phone, length in (
            (closure, rng.uniform(0.025, 0.09)),
            (str(rng.choice(["aa", "ae", "ay"])), rng.uniform(0.1, 0.2)),
        ):
            segments.append((phone, at, at + length, 1))
            at += length
    n = int(at * FPS) + 5
    track = perform(segments, n, emotion=emotion, seed=seed)
    times = (np.arange(n) + 0.5) / FPS
    for phone, begin, end, _ in segments:
        frames = np.abs(times - (begin + end) / 2) <= max((end - begin) / 2, 0.5 / FPS) + 1e-6
        openings = column(track, "mouth_open")[frames]
        if phone in "pbm":
            assert openings.min() < 0.02, (phone, begin)
        elif phone in "fv":
            i = openings.argmin()
            assert openings[i] < 0.14 and column(track, "teeth")[frames][i] > 0.9, (phone, begin)


def test_mouth_follows_the_vowels(seed):
    rng = np.random.default_rng(seed)
    segments, at, wanted = [], 0.4, []
    for _ in range(60):
        vowel = str(rng.choice(["aa", "iy", "uw"]))
        segments += [("t", at, at + 0.07, 0), (vowel, at + 0.07, at + 0.25, 1), ("pau", at + 0.25, at + 0.6, 0)]
        wanted.append((vowel, at + 0.16))
        at += 0.6
    n = int(at * FPS) + 10
    track = perform(segments, n, seed=seed)
    pick = lambda field, v: np.array([column(track, field)[int(t * FPS)] for w, t in wanted if w == v])
    assert pick("mouth_open", "aa").min() > 0.55 > 0.5 > pick("mouth_open", "uw").max()
    assert pick("mouth_wide", "iy").min() > 0.4 and pick("mouth_round", "uw").min() > 0.6
    silent = np.array([column(track, "mouth_open")[int((t + 0.3) * FPS)] for _, t in wanted])
    assert silent.max() < 0.12
    # The opening comes with the sound: best alignment to the vowels' loudness within one frame.
    loud = np.zeros(n)
    for phone, b, e, _ in segments:
        if phone in ("aa", "iy", "uw"):
            loud[int(b * FPS) : int(e * FPS) + 1] = 1
    scores = {lag: np.corrcoef(np.roll(column(track, "mouth_open"), lag), loud)[0, 1] for lag in range(-5, 6)}
    assert abs(max(scores, key=scores.get)) <= 1, scores


@pytest.mark.parametrize("mode", [IDLE, LISTENING, SPEAKING])
def test_blinks_are_natural(seed, mode):
    minutes = 6
    n = minutes * 60 * FPS
    track = perform([], n, mode_track=np.full(n, mode), seed=seed)
    shut = np.concatenate([[False], column(track, "blink_l") > 0.9, [False]])
    starts, ends = (np.flatnonzero(np.diff(shut.astype(int)) == s) for s in (1, -1))
    assert 10 <= len(starts) / minutes <= 32
    assert (ends - starts).max() <= 3
    moving = np.concatenate([[False], column(track, "blink_l") > 0.1, [False]])
    starts, ends = (np.flatnonzero(np.diff(moving.astype(int)) == s) for s in (1, -1))
    assert 0.1 <= np.mean(ends - starts) / FPS <= 0.2
    assert np.array_equal(column(track, "blink_l"), column(track, "blink_r"))


def test_modes_differ_and_stay_silent(seed):
    n = 4 * 60 * FPS
    tracks = {m: perform([], n, mode_track=np.full(n, m), seed=seed) for m in (IDLE, LISTENING, SPEAKING)}
    for track in tracks.values():
        assert column(track, "mouth_open").max() < 0.02
    spread = {m: column(t, "gaze_x").std() for m, t in tracks.items()}
    assert spread[IDLE] > 1.5 * spread[LISTENING]
    assert abs(column(tracks[LISTENING], "roll").mean()) > 0.2


def test_emotions_show_and_change_smoothly(seed):
    mean = {e: perform([], 500, emotion=e, seed=seed).mean(0) for e in EMOTIONS}
    value = lambda e, f: mean[e][COLUMN[f]]
    assert value("happy", "smile") > value("neutral", "smile") + 0.3 > value("sad", "smile") + 0.8
    assert value("angry", "brow_furrow") > 0.6 and value("sad", "brow_furrow") < -0.5
    assert value("surprised", "brow_raise") > 0.6 and value("surprised", "eye_squint") < -0.5
    assert value("happy", "blush") > value("neutral", "blush") + 0.2
    feeling = np.repeat([0, 1, 3], 50)
    smile = column(perform([], 150, emotion=feeling, seed=seed), "smile")
    assert np.abs(np.diff(smile)).max() < 0.2
    assert smile[75] > smile[20] > smile[130]


def test_head_moves_smoothly(seed):
    track = perform(speech(np.random.default_rng(seed), 60), 60 * FPS, seed=seed)
    for field, limit in (("yaw", 0.2), ("pitch", 0.3), ("roll", 0.15), ("head_x", 0.2), ("breath", 0.1)):
        assert column(track, field).std() > 0.05
        assert np.abs(np.diff(column(track, field))).max() < limit, field


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="happy"):
        perform([], 10, emotion="bored")
    with pytest.raises(ValueError, match="mode_track"):
        perform([], 10, mode_track=np.zeros(9, int))
    with pytest.raises(ValueError, match="emotion"):
        perform([], 10, emotion=np.zeros(11, int))
