"""Scenes: streams with their picture, as latents of the video codec.

    python -m tools.train.scenes --streams DIR --codec DIR --out DIR --minutes 20

Every stream is played by characters that speak, listen and wait, a new one every few seconds, and encoded.
Written in shards; a run that was stopped goes on where it was.
"""
from __future__ import annotations

import argparse
import multiprocessing
import time
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from streamchar_rt.codecs.video import FRAMES, MotionCode
from streamchar_rt.ops import PackedLinear
from streamchar_rt.orchestrator.units import END, UNIT_NAMES, is_phone

from .streams import CHUNK, LEAD, Streams

CHUNK_FRAMES = 16
EMOTIONS = 5
SCENE_CHUNKS = 5     # chunks a character is seen for: short, so that there are many characters
CAST_SHARE = 0.2     # scenes played by the shipped cast
EMOTION_CHANGES = 0.3    # share of chunks in which another emotion begins: what the past shows must not tell it


@dataclass
class SceneBatch:
    rows: np.ndarray              # (B, 6) stream chunks
    video: torch.Tensor           # (B, 4, C, h, w) normalised latents
    motion: torch.Tensor          # the chunk before
    sink: torch.Tensor            # an earlier chunk of the same scene
    sink_rows: np.ndarray         # (B,) first half-frame of the sink
    reference: torch.Tensor       # (B, 1, C', h, w) the codec's coarse reference features
    emotion: torch.Tensor         # int64 (B,)
    mode: torch.Tensor            # int64 (B,)


class Scenes:
    """All shards in memory (24 KB a chunk)."""

    def __init__(self, rows, scene, video, reference, emotion, mode, mean, std):
        self.rows, self.video, self.reference, self.emotion, self.mode = rows, video, reference, emotion, mode
        self.mean, self.std = mean, std
        self.usable = np.flatnonzero(scene[1:] == scene[:-1]) + 1     # chunks that have one before them
        self.first = np.searchsorted(scene, scene)                    # first chunk of each scene
        self.scene = scene

    @classmethod
    def load(cls, folder: Path) -> "Scenes":
        parts = [dict(np.load(p)) for p in sorted(Path(folder).glob("scene_?????.npz"))]
        if not parts:
            raise FileNotFoundError(f"no scenes in {folder}; make some with python -m tools.train.scenes")
        join = lambda k: np.concatenate([p[k] for p in parts])
        rows, video = join("rows"), join("video")
        scene = join("scene")
        order = np.lexsort((rows[:, 5], scene))
        sample = video[:: max(1, len(video) // 2000)].astype(np.float32)
        mean, std = sample.mean((0, 1, 3, 4)), sample.std((0, 1, 3, 4))
        return cls(rows[order], scene[order], video[order], join("reference")[order], join("emotion")[order], join("mode")[order], mean, std)

    def normalize(self, latents: np.ndarray) -> torch.Tensor:
        shape = (-1, 1, 1)
        x = (latents.astype(np.float32) - self.mean.reshape(shape)) / self.std.reshape(shape)
        return torch.from_numpy(x)

    def movement(self, patch: int = 2) -> np.ndarray:
        """How much each place of the token grid moves by itself, float32 (h / patch, w / patch), mean 1: the mean square
        of the normalised local latents' change from one to the next. Faces are where others are, so eyes and mouth
        stand out."""
        sample = self.normalize(self.video[:: max(1, len(self.video) // 500)]).numpy()[:, :, MotionCode.CHANNELS:]
        change = np.square(np.diff(sample, axis=1)).mean((0, 1, 2))
        grid = change.reshape(len(change) // patch, patch, -1, patch).mean((1, 3))
        return (grid / grid.mean()).astype(np.float32)

    def split(self, held: int) -> tuple["Scenes", "Scenes"]:
        """The same scenes, drawing from all streams but the last ``held``, and from those alone."""
        streams = self.rows[self.usable, 4]
        kept = np.isin(streams, np.unique(streams)[-held:])
        learned, judged = copy(self), copy(self)
        learned.usable, judged.usable = self.usable[~kept], self.usable[kept]
        return learned, judged

    def choose(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Random places (count,), and those of their sinks."""
        at = self.usable[rng.integers(0, len(self.usable), count)]
        return at, self.sinks(at, rng)

    def sample(self, count: int, rng: np.random.Generator) -> SceneBatch:
        return self.gather(*self.choose(count, rng))

    def runs(self, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """Places (count, length) of chunks of a scene that follow each other and have one before them."""
        first = self.usable[self.usable + length <= len(self.scene)]
        first = first[self.scene[first] == self.scene[first + length - 1]]
        if not len(first):
            raise ValueError(f"no scene has {length} chunks after its first")
        return rng.choice(first, count)[:, None] + np.arange(length)

    def sinks(self, at: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For the chunk at each place one of its scene's first."""
        return self.first[at] + rng.integers(0, np.maximum(1, np.minimum(4, at - self.first[at])))

    def take(self, at: np.ndarray, rng: np.random.Generator) -> SceneBatch:
        """The chunks at places ``at`` (B,), each with one of its scene's first as the sink."""
        return self.gather(at, self.sinks(at, rng))

    def gather(self, at: np.ndarray, sink: np.ndarray) -> SceneBatch:
        """The chunks at places ``at`` (B,) with those at ``sink`` (B,) as sinks."""
        tensor = lambda a: torch.from_numpy(a.astype(np.int64))
        return SceneBatch(self.rows[at], self.normalize(self.video[at]), self.normalize(self.video[at - 1]),
                          self.normalize(self.video[sink]), self.rows[sink, 0], torch.from_numpy(self.reference[at].astype(np.float32)),
                          tensor(self.emotion[at]), tensor(self.mode[at]))


def segments_of(streams: Streams, rows: np.ndarray) -> list[tuple[str, float, float, int]]:
    """(phone, begin s, end s, stress) on the picture's clock of the chunks ``rows`` of one stream."""
    origin = int(rows[0, 0]) - LEAD
    stop = int(rows[-1, 0]) + CHUNK
    place = streams.place[origin:stop]
    cuts = np.flatnonzero(np.diff(place)) + 1
    begins, ends = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(place)]])
    out = []
    for a, b in zip(begins, ends):
        unit = int(streams.unit[place[a]])
        out.append((UNIT_NAMES[unit] if is_phone(unit) else "pau", a * 0.02, b * 0.02, int(streams.stress[place[a]])))
    return out


def plan_modes(streams: Streams, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Emotion and mode of each chunk of a stream, int64 (C,): both change now and then."""
    chunks = len(rows)
    speaking = np.array([(streams.unit[streams.place[r[0] - LEAD: r[0] + CHUNK]] != END).any() for r in rows])
    emotion, mode = np.empty(chunks, np.int64), np.empty(chunks, np.int64)
    quiet, feeling = int(rng.integers(0, 2)), int(rng.choice(EMOTIONS, p=[0.4, 0.25, 0.1, 0.1, 0.15]))
    for k in range(chunks):
        quiet = 1 - quiet if rng.random() < 0.1 else quiet
        feeling = int(rng.integers(EMOTIONS)) if rng.random() < EMOTION_CHANGES else feeling
        mode[k] = 2 if speaking[k] else quiet
        emotion[k] = feeling
    return emotion, mode


def draw_stream(streams: Streams, rows: np.ndarray, seed: int, still_eyes: bool = False):
    """Draw one stream as scenes of SCENE_CHUNKS chunks, each with its own character.

    ``still_eyes``: open and ahead, as they are left to ``codecs.eyes``; no denoiser can know when they blink.

    Yields (rows, frames uint8 premultiplied (C * 16, H, W, 4), poses (C * 16, P), reference (H, W, 4), emotion (C,),
    mode (C,)).
    """
    from tools.studio.behaviour import perform
    from tools.studio.cast import CAST
    from tools.studio.character import Identity, Renderer
    from tools.studio.pose import REST

    from .pictures import BLINK, FIRST_TRAIN_IDENTITY, GAZE
    rng = np.random.default_rng((11, seed))
    emotion, mode = plan_modes(streams, rows, rng)
    track = perform(segments_of(streams, rows), len(rows) * CHUNK_FRAMES, emotion=np.repeat(emotion, CHUNK_FRAMES),
                    mode_track=np.repeat(mode, CHUNK_FRAMES), seed=int(rng.integers(2 ** 31)))
    if still_eyes:
        track[:, [*BLINK, *GAZE]] = 0
    for begin in range(0, len(rows) - 1, SCENE_CHUNKS):
        part = slice(begin, begin + SCENE_CHUNKS)
        identity = int(rng.choice(list(CAST.values()))) if rng.random() < CAST_SHARE \
            else int(rng.integers(FIRST_TRAIN_IDENTITY, 2 ** 31))
        renderer = Renderer(Identity.from_seed(identity))
        poses = track[begin * CHUNK_FRAMES: (begin + SCENE_CHUNKS) * CHUNK_FRAMES]
        yield (rows[part], np.stack([renderer.draw(p, premultiplied=True) for p in poses]), poses,
               renderer.draw(REST, premultiplied=True), emotion[part], mode[part])


def encode(codec, frames: np.ndarray, poses: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 premultiplied frames (N * 4, H, W, 4), poses (N * 4, P) and reference (H, W, 4) to latents (N, C, h, w) and
    the coarse reference features (1, C', h, w), float16."""
    from .pictures import to_float
    device = next(codec.parameters()).device
    x = to_float(torch.from_numpy(frames).to(device)).reshape(-1, FRAMES, 4, *frames.shape[1:3])
    picture = to_float(torch.from_numpy(reference).to(device))[None]
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or PackedLinear.pays("bf16")):
        told = torch.from_numpy(poses).to(device).reshape(len(x), FRAMES, -1)
        latents = codec.encoder(x, told, picture.expand(len(x), -1, -1, -1))
        features = codec.reference(picture)[-1]
    return latents.half().cpu().numpy(), features.half().cpu().numpy()


def write(args: argparse.Namespace, worker: int) -> None:
    """One worker's share of the streams."""
    from .loop import load_weights
    from .codec_networks import VideoCodec
    torch.set_num_threads(1)
    codec = VideoCodec()
    codec.load_state_dict(load_weights(args.codec), strict=False)      # the pose's head is training's alone
    codec.eval().to(args.device, memory_format=torch.channels_last)
    streams = Streams.load(args.streams)
    numbers = np.random.default_rng(5).permutation(int(streams.chunks[:, 4].max()) + 1)[worker::args.workers]
    began, done = time.monotonic(), 0
    pending: list[dict] = []
    shard: list[int] = []

    def flush() -> None:
        if pending:
            path = args.out / f"scene_{shard[0]:05d}.npz"
            np.savez(path.with_suffix(".part.npz"), **{k: np.concatenate([p[k] for p in pending]) for k in pending[0]})
            path.with_suffix(".part.npz").rename(path)
        pending.clear()
        shard.clear()

    existing = set()
    for path in args.out.glob("scene_?????.npz"):
        with np.load(path) as data:
            existing.update(np.unique(data["rows"][:, 4]).tolist())
    for number in numbers:
        if time.monotonic() - began > args.minutes * 60:
            break
        if int(number) in existing:
            continue
        rows = streams.chunks[streams.chunks[:, 4] == number]
        scenes = draw_stream(streams, rows, int(number), args.still_eyes)
        for part, (rows, frames, poses, reference, emotion, mode) in enumerate(scenes):
            latents, still = encode(codec, frames, poses, reference)
            video = latents.reshape(len(rows), CHUNK_FRAMES // FRAMES, *latents.shape[1:])
            pending.append({"rows": rows, "scene": np.full(len(rows), int(number) * 1000 + part), "video": video,
                            "reference": np.repeat(still[None], len(rows), 0), "emotion": emotion, "mode": mode})
            done += len(rows)
        shard.append(int(number))
        if len(shard) == 10:
            flush()
            spent = time.monotonic() - began
            print(f"worker {worker}: {done} chunks, {done * 0.64 / 3600:.2f} h of scenes, {done * 16 / spent:.0f} frames/s, "
                  f"{args.minutes - spent / 60:.1f} min left", flush=True)
    flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True, help="checkpoint folder of tools.train.video_codec")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--device", default="cpu", help="that encodes")
    parser.add_argument("--still-eyes", action="store_true",
                        help="draw eyes open and ahead: for a model whose blinks and glances tools.train.eyes makes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write, args=(args, i)) for i in range(args.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed := [w.exitcode for w in workers if w.exitcode]:
        raise SystemExit(f"{len(failed)} workers failed")


if __name__ == "__main__":
    main()
