"""Short random clips of studio characters for the video codec, drawn on the fly."""
from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from streamchar_rt.codecs.video import MotionCode
from streamchar_rt.orchestrator.units import PHONES
from tools.studio.behaviour import BLINKS, EMOTIONS, perform
from tools.studio.cast import CAST
from tools.studio.character import Identity, Renderer
from tools.studio.motion import MotionMap
from tools.studio.pose import COLUMN, POSE_FIELDS, POSE_RANGES, REST, clamp

FIRST_TRAIN_IDENTITY = 10_000          # below: the shipped cast and the held-out identities
HELD_OUT = range(5_000, 6_000)
MOUTH_WEIGHT, EYES_WEIGHT = 6.0, 3.5   # of the loss, where all else has 1
FLOW_CELL = 4                          # pixels
FLOW_SHARE = 4                         # one frame in so many has its true flow: it costs as much as the frame
FLOW_MARGIN = 3                        # cells about the drawing that are to move with its edge
_LOW = np.array([POSE_RANGES[f][0] for f in POSE_FIELDS], np.float32)
_HIGH = np.array([POSE_RANGES[f][1] for f in POSE_FIELDS], np.float32)
BLINK, GAZE = [COLUMN["blink_l"], COLUMN["blink_r"]], [COLUMN["gaze_x"], COLUMN["gaze_y"]]
EYES = [BLINK[0], *GAZE]               # what the eyes are told to do: both blink alike
_RIGID = list(range(MotionCode.RIGID))
_FAST = [COLUMN[n] for n in ("mouth_open", "mouth_wide", "mouth_round", "teeth", "tongue", "blink_l", "blink_r", "gaze_x", "gaze_y")]


def random_pose(rng: np.random.Generator) -> np.ndarray:
    """A pose (P,): any combination one time in three, else a plausible one about rest."""
    wild = _LOW + (_HIGH - _LOW) * rng.random(len(POSE_FIELDS), np.float32)
    if rng.random() < 0.35:
        return wild
    out = REST + (wild - REST) * rng.random(len(POSE_FIELDS), np.float32) ** 1.5
    blink = float(rng.random() < 0.15) * rng.random()
    out[COLUMN["blink_l"]] = out[COLUMN["blink_r"]] = blink
    return clamp(out)


def random_track(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A pose track (frames, P): slow movement of the head, fast movement of mouth and eyes."""
    start, end = random_pose(rng), random_pose(rng)
    reach = rng.random() * 0.5
    ramp = np.linspace(0, 1, frames, dtype=np.float32)[:, None]
    track = start + (end - start) * reach * ramp
    knots = np.stack([random_pose(rng)[_FAST] for _ in range(4)])
    x = np.linspace(0, rng.uniform(0.5, 3), frames)
    low = np.minimum(x.astype(int), 2)
    mix = (x - low)[:, None]
    mix = mix * mix * (3 - 2 * mix)
    track[:, _FAST] = (1 - mix) * knots[low] + mix * knots[low + 1]
    return clamp(track)


def performed_track(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A pose track (frames, P) cut from a performance: babble, listening or waiting, with any emotion."""
    total, now, segments = frames + 25, 0.0, []
    mode = int(rng.choice(3, p=[0.15, 0.15, 0.7]))
    while mode == 2 and now < total / 25:
        length = float(rng.uniform(0.05, 0.16))
        phone = "pau" if rng.random() < 0.08 else PHONES[int(rng.integers(len(PHONES)))]
        segments.append((phone, now, now + length, int(rng.random() < 0.3)))
        now += length
    track = perform(segments, total, emotion=EMOTIONS[int(rng.integers(len(EMOTIONS)))],
                    mode_track=np.full(total, mode), seed=int(rng.integers(2 ** 31)))
    begin = int(rng.integers(0, total - frames))
    return track[begin: begin + frames]


def attention_map(renderer: Renderer, pose: np.ndarray) -> np.ndarray:
    """Loss weights, float32 (H, W): eyes and mouth count more than the rest."""
    weight = np.ones((renderer.size, renderer.size), np.float32)
    for name, (x0, y0, x1, y1) in renderer.boxes(pose).items():
        weight[int(y0): int(y1) + 1, int(x0): int(x1) + 1] = MOUTH_WEIGHT if name == "mouth" else EYES_WEIGHT
    return weight


def displaced(rng: np.random.Generator, track: np.ndarray) -> np.ndarray:
    """``track`` (T, P) with its rigid movement put off by a random amount, as a denoiser's error would."""
    reach = 0.5 * (_HIGH - _LOW)[_RIGID] * rng.uniform(0, 0.5)
    ends = rng.standard_normal((2, len(_RIGID))) * [[1.0], [0.3]]
    out = track.copy()
    out[:, _RIGID] += (reach * (ends[0] + np.linspace(-1, 1, len(track))[:, None] * ends[1])).astype(np.float32)
    return clamp(out)


def spread(flow: np.ndarray, known: np.ndarray, empty: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Continue ``flow`` (2, h, w) from where it is ``known`` (h, w) into what is ``empty``, so many cells far: else the
    edge of what moved would be stretched into the nothing beside it."""
    (height, width), flow, known = known.shape, flow.copy(), known.copy()
    for _ in range(cells):
        there, moved = np.pad(known, 1), np.pad(flow, ((0, 0), (1, 1), (1, 1)))
        total, count = np.zeros_like(flow), np.zeros(known.shape, np.float32)
        for y, x in np.ndindex(3, 3):
            near = there[y: y + height, x: x + width]
            total += moved[:, y: y + height, x: x + width] * near
            count += near
        fresh = empty & ~known & (count > 0)
        flow[:, fresh] = total[:, fresh] / count[fresh]
        known |= fresh
    return flow, known


def busy_eyes(rng: np.random.Generator, track: np.ndarray) -> np.ndarray:
    """``track`` (T, P) with eyes that do more than they use to: blinks and glances that begin anywhere in it."""
    out, frames = track.copy(), len(track)
    out[:, BLINK[1]] = out[:, BLINK[0]]
    if rng.random() < 0.7:
        shape = BLINKS[int(rng.integers(len(BLINKS)))]
        at = int(rng.integers(1 - len(shape), frames))
        closed = np.zeros(frames + 2 * len(shape), np.float32)
        closed[at + len(shape): at + 2 * len(shape)] = shape
        out[:, BLINK] = np.maximum(out[:, BLINK], closed[len(shape): len(shape) + frames, None])
    if rng.random() < 0.5:
        begin = int(rng.integers(frames)) if rng.random() < 0.4 else 0
        out[begin:, GAZE] += rng.normal(0, (0.4, 0.2)).astype(np.float32)
    return clamp(out)


def forgotten_eyes(rng: np.random.Generator, track: np.ndarray) -> np.ndarray:
    """``track`` (T, P) with the eyes of a denoiser that nothing tells them: open and ahead, or some mean of what they may
    do, each eye for itself."""
    out, frames = track.copy(), len(track)
    out[:, [*BLINK, *GAZE]] = 0
    if rng.random() < 0.4:
        out[:, GAZE] = rng.normal(0, 0.12, 2)
    if rng.random() < 0.4:
        for eye in BLINK:
            out[:, eye] = rng.uniform(0, 0.7) * np.interp(np.arange(frames), np.linspace(0, frames - 1, 3), rng.random(3))
    return clamp(out)


def clip(seed: int, track: np.ndarray, seen: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """``frames`` uint8 (T, H, W, 4) premultiplied, ``reference`` the rest pose (H, W, 4), ``weight`` float16
    (T, H, W), ``pose`` float32 (T, P), ``flow`` float16 (T, 2, H / 4, W / 4) to the reference in pixels, and ``known``
    bool (T, H / 4, W / 4): where the flow is given. With a track ``seen``, ``seen_frames`` and ``seen_pose`` are that
    track's."""
    renderer = Renderer(Identity.from_seed(seed))
    motion, cells = MotionMap(renderer), renderer.size // FLOW_CELL
    flow, known = np.zeros((len(track), 2, cells, cells), np.float16), np.zeros((len(track), cells, cells), bool)
    draw = lambda poses: np.stack([renderer.draw(p, premultiplied=True) for p in poses])
    frames = draw(track)
    for t in range(seed % FLOW_SHARE, len(track), FLOW_SHARE):
        empty = frames[t, :, :, 3].reshape(cells, FLOW_CELL, cells, FLOW_CELL).min((1, 3)) == 0   # in part at least
        flow[t], known[t] = spread(*motion.flow(track[t], cells), empty, FLOW_MARGIN)
    result = {"frames": frames, "reference": renderer.draw(REST, premultiplied=True),
              "weight": np.stack([attention_map(renderer, p) for p in track]).astype(np.float16), "pose": track,
              "flow": flow, "known": known}
    if seen is not None:
        result |= {"seen_pose": seen, "seen_frames": frames if seen is track else draw(seen)}
    return result


class Clips(IterableDataset):
    """Endless random clips; every worker draws its own.

    ``performed``: share of clips from performances, the rest are random poses. ``displaced``: share of clips with
    another movement in what the encoder sees. ``eyes``: share whose eyes are busy. ``cast``: share of clips of the
    shipped characters.
    """

    def __init__(self, frames: int, seed: int, performed: float, displaced: float, eyes: float, cast: float = 0.0):
        self.frames, self.seed, self.performed, self.displaced, self.eyes = frames, seed, performed, displaced, eyes
        self.cast = cast

    def __iter__(self):
        info = get_worker_info()
        rng = np.random.default_rng((self.seed, info.id if info else 0))
        while True:
            track = (performed_track if rng.random() < self.performed else random_track)(rng, self.frames)
            track = busy_eyes(rng, track) if rng.random() < self.eyes else track
            seen = displaced(rng, track) if rng.random() < self.displaced else track
            known = self.cast > 0 and rng.random() < self.cast
            identity = rng.choice(list(CAST.values())) if known else rng.integers(FIRST_TRAIN_IDENTITY, 2 ** 31)
            yield clip(int(identity), track, seen)


def loader(frames: int, batch: int, seed: int, performed: float = 0.0, displaced: float = 0.0, eyes: float = 0.0,
           workers: int = 1) -> DataLoader:
    return DataLoader(Clips(frames, seed, performed, displaced, eyes), batch_size=batch, num_workers=workers,
                      prefetch_factor=3, multiprocessing_context="spawn")


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (..., H, W, 4) to float32 (..., 4, H, W) in [0, 1]."""
    return pixels.movedim(-1, -3).float() / 255.0
