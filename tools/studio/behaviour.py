"""What a character does while it speaks, listens or waits: segments in, pose track out."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from .mouth_track import Segment, mouth_track
from .pose import COLUMN, POSE_FIELDS, REST, PoseArray, clamp
from .visemes import MOUTH_FIELDS

EMOTIONS: tuple[str, ...] = ("neutral", "happy", "sad", "angry", "surprised")
IDLE, LISTENING, SPEAKING = 0, 1, 2

_VOWELS = frozenset("aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw".split())
_SILENT = frozenset(("pau", "sil", ""))

# Emotion: offsets added to the track (REST gives smile and blush their base).
_EMOTION_POSE: dict[str, dict[str, float]] = {
    "neutral": {},
    "happy": dict(smile=0.5, eye_squint=0.3, blush=0.4, brow_raise=0.3, mouth_wide=0.12, pitch=-0.1),
    "sad": dict(
        smile=-0.95,
        brow_furrow=-0.8,
        brow_raise=-0.1,
        pitch=0.35,
        gaze_y=0.25,
        blush=-0.15,
        blink_l=0.14,
        blink_r=0.14,
        head_y=0.4,
    ),
    "angry": dict(smile=-0.9, brow_furrow=0.9, brow_raise=-0.3, eye_squint=0.18, pitch=0.12, mouth_wide=0.06),
    "surprised": dict(smile=-0.3, brow_raise=0.9, eye_squint=-0.8, pitch=-0.15, head_y=-0.35),
}
_EMOTION_TABLE = np.array([[_EMOTION_POSE[e].get(f, 0.0) for f in POSE_FIELDS] for e in EMOTIONS], np.float32)
#: how lively movement is under each emotion
_ENERGY = np.array([1.0, 1.25, 0.6, 1.1, 1.05], np.float32)

# Size of the slow sway by mode (idle, listening, speaking).
_SWAY = {
    "yaw": (0.34, 0.14, 0.26),
    "pitch": (0.16, 0.10, 0.16),
    "roll": (0.26, 0.14, 0.22),
    "head_x": (0.34, 0.18, 0.26),
    "head_y": (0.14, 0.10, 0.16),
}
_BLINK_GAP = np.array([3.4, 3.8, 3.1])  # mean s between blinks by mode
BLINKS = (np.array([0.42, 1.0, 0.6, 0.14], np.float32), np.array([0.8, 1.0, 0.36], np.float32))


def _smooth(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing along time; sigma in frames, edges held."""
    radius = int(3 * sigma) + 1
    k = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    k /= k.sum()
    flat = np.pad(x.reshape(len(x), -1), ((radius, radius), (0, 0)), mode="edge")
    return np.stack([np.convolve(c, k, "valid") for c in flat.T], 1).reshape(x.shape).astype(np.float32)


def _noise(rng: np.random.Generator, n: int, seconds: float, fps: float) -> np.ndarray:
    """Smooth noise of unit variance whose features last about `seconds`: float32 (n,)."""
    sigma = seconds * fps / 2
    radius = int(3 * sigma) + 1
    k = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    white = rng.standard_normal(n + 2 * radius)
    return (np.convolve(white, k / np.sqrt((k * k).sum()), "valid")).astype(np.float32)


def _add(track: np.ndarray, field: str, at: int, shape: np.ndarray) -> None:
    """Add a short curve starting at frame `at`, cut at the track's ends."""
    i0, i1 = max(at, 0), min(at + len(shape), len(track))
    if i1 > i0:
        track[i0:i1, COLUMN[field]] += shape[i0 - at : i1 - at]


def _one_hot(ids: np.ndarray, n: int) -> np.ndarray:
    return np.eye(n, dtype=np.float32)[ids]


def default_modes(segments: Sequence[Segment], n_frames: int, fps: float = 25.0) -> np.ndarray:
    """Speaking where phones are, pauses under 0.6 s included; idle elsewhere: int (n_frames,)."""
    modes = np.full(n_frames, IDLE)
    last_end = -np.inf
    for phone, begin, end, _ in segments:
        if phone in _SILENT:
            continue
        start = last_end if begin - last_end < 0.6 else begin
        modes[max(0, int(start * fps)) : max(0, int(np.ceil(end * fps)))] = SPEAKING
        last_end = end
    return modes


def _blinks(track: np.ndarray, rng: np.random.Generator, modes: np.ndarray, fps: float) -> None:
    n = len(track)
    at = rng.uniform(0.2, 2.5)
    while at * fps < n:
        shape = BLINKS[int(rng.integers(2))]
        frame = int(at * fps)
        for eye in ("blink_l", "blink_r"):
            i1 = min(frame + len(shape), n)
            col = track[frame:i1, COLUMN[eye]]
            np.maximum(col, shape[: i1 - frame], out=col)
        if rng.random() < 0.1:
            at += rng.uniform(0.28, 0.4)  # a double blink
        else:
            at += 1.0 + rng.gamma(2.0, (_BLINK_GAP[modes[min(frame, n - 1)]] - 1.0) / 2)


def _gaze(rng: np.random.Generator, modes: np.ndarray, fps: float) -> np.ndarray:
    """Fixations and saccades: float32 (n, 2)."""
    n = len(modes)
    out = np.zeros((n, 2), np.float32)
    at, here = 0, np.zeros(2)
    while at < n:
        mode = modes[at]
        away = rng.random() < (0.62, 0.12, 0.3)[mode]
        there = rng.normal(0, 0.07, 2)
        if away:
            reach = (0.75, 0.3, 0.5)[mode]
            there = there + np.array([rng.uniform(-reach, reach), rng.uniform(-0.4, 0.35) * reach])
        hold = max(3, int(fps * (rng.uniform(0.5, 1.6) if away else rng.uniform(0.9, 3.2))))
        out[at : at + hold] = there
        out[at : at + 1] = here + 0.6 * (there - here)  # one frame under way
        at, here = at + hold, there
    return out


def _hair(drive: np.ndarray, fps: float) -> np.ndarray:
    """Loose hair as a damped spring dragged by the head's position (n,)."""
    out = np.zeros(len(drive), np.float32)
    x = v = 0.0
    speed = np.diff(drive, prepend=drive[:1]) * fps
    for i, s in enumerate(speed.tolist()):
        for _ in range(4):  # four steps a frame keep the spring stable
            v += (-60.0 * x - 9.0 * v - 120.0 * s) / (4 * fps)
            x += v / (4 * fps)
        out[i] = x
    return out


def perform(
    segments: Sequence[Segment],
    n_frames: int,
    *,
    fps: float = 25.0,
    emotion: str | np.ndarray = "neutral",
    mode_track: np.ndarray | None = None,
    seed: int = 0,
) -> PoseArray:
    """A whole performance: float32 (n_frames, P), deterministic in its arguments.

    segments: (phone, begin s, end s, stress), in time order. emotion: a name of EMOTIONS or an
    int array (n_frames,) of indices into it. mode_track: int (n_frames,), 0 idle, 1 listening,
    2 speaking; by default speaking where phones are and idle elsewhere.
    Raises ValueError for an unknown emotion or arrays of another length.
    """
    if n_frames <= 0:
        return np.zeros((0, len(POSE_FIELDS)), np.float32)
    if isinstance(emotion, str):
        if emotion not in EMOTIONS:
            raise ValueError(f"unknown emotion {emotion!r}: use one of {', '.join(EMOTIONS)}")
        feeling = np.full(n_frames, EMOTIONS.index(emotion))
    else:
        feeling = np.asarray(emotion, int)
    modes = default_modes(segments, n_frames, fps) if mode_track is None else np.asarray(mode_track, int)
    for name, a in (("emotion", feeling), ("mode_track", modes)):
        if a.shape != (n_frames,):
            raise ValueError(f"{name} must have shape ({n_frames},), not {a.shape}")

    rng = np.random.default_rng(seed)
    sec = lambda s: s * fps
    feel = _smooth(_one_hot(feeling, len(EMOTIONS)), sec(0.25))
    mode = _smooth(_one_hot(modes, 3), sec(0.2))
    energy = feel @ _ENERGY
    track = np.tile(REST, (n_frames, 1))

    for field, sizes in _SWAY.items():
        slow, quick = _noise(rng, n_frames, 2.6, fps), _noise(rng, n_frames, 0.8, fps)
        track[:, COLUMN[field]] += (mode @ np.array(sizes, np.float32)) * energy * (0.92 * slow + 0.3 * quick)
    rate = rng.uniform(0.24, 0.32)
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.cumsum(rate * (0.85 + 0.3 * (energy - 0.6))) / fps
    track[:, COLUMN["breath"]] = 0.5 - 0.5 * np.cos(phase)

    gaze = _gaze(rng, modes, fps)
    track[:, COLUMN["gaze_x"]] += gaze[:, 0]
    track[:, COLUMN["gaze_y"]] += gaze[:, 1]
    follow = _smooth(gaze, sec(0.14))  # the head goes along, a little later and smaller
    track[:, COLUMN["yaw"]] += 0.3 * follow[:, 0]
    track[:, COLUMN["pitch"]] += 0.25 * follow[:, 1]

    _beats(track, rng, segments, fps, energy)
    _attend(track, rng, modes, mode, fps)
    track += feel @ _EMOTION_TABLE
    _blinks(track, rng, modes, fps)

    mouth = mouth_track(segments, n_frames, fps)
    for i, field in enumerate(MOUTH_FIELDS):
        track[:, COLUMN[field]] += mouth[:, i]
    # Loud feelings open the mouth wider, but never open a closure.
    track[:, COLUMN["mouth_open"]] *= 0.9 + 0.1 * energy
    track[:, COLUMN["hair_sway"]] = _hair(
        0.25 * track[:, COLUMN["head_x"]] + 0.35 * track[:, COLUMN["yaw"]] + 0.3 * track[:, COLUMN["roll"]], fps
    )
    return clamp(track)


def _beats(
    track: np.ndarray, rng: np.random.Generator, segments: Sequence[Segment], fps: float, energy: np.ndarray
) -> None:
    """Nods and brow flashes on stressed vowels."""
    bump = np.exp(-0.5 * (np.arange(-8, 9) / (0.09 * fps)) ** 2).astype(np.float32)
    flash = np.exp(-0.5 * (np.arange(-9, 10) / (0.13 * fps)) ** 2).astype(np.float32)
    last = -1.0
    for phone, begin, end, stress in segments:
        if phone not in _VOWELS or stress != 1 or begin - last < 0.38:
            continue
        nod, brow = rng.random(), rng.random()
        middle = int((begin + end) / 2 * fps)
        if not 0 <= middle < len(track):
            continue
        if nod < 0.6:
            _add(track, "pitch", middle - 8, bump * energy[middle] * float(rng.uniform(0.18, 0.42)))
            last = begin
        if brow < 0.35:
            _add(track, "brow_raise", middle - 9, flash * energy[middle] * float(rng.uniform(0.25, 0.55)))
            last = begin


def _attend(track: np.ndarray, rng: np.random.Generator, modes: np.ndarray, mode: np.ndarray, fps: float) -> None:
    """Listening: a held tilt, raised brows and now and then a double nod."""
    listening = mode[:, LISTENING]
    tilt = 0.38 * rng.choice((-1.0, 1.0))
    track[:, COLUMN["roll"]] += listening * tilt
    track[:, COLUMN["brow_raise"]] += listening * 0.14
    track[:, COLUMN["smile"]] += listening * 0.1
    s = np.arange(int(1.1 * fps)) / fps
    nod = (0.5 * np.sin(2 * np.pi * s / 0.55) ** 2 * np.exp(-1.2 * s) * np.clip((1.1 - s) / 0.3, 0, 1)).astype(
        np.float32
    )
    at = rng.uniform(0.8, 2.5)
    while at * fps < len(track):
        if modes[int(at * fps)] == LISTENING:
            _add(track, "pitch", int(at * fps), nod * float(rng.uniform(0.7, 1.2)))
        at += rng.uniform(2.4, 5.5)
