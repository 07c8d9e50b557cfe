"""A stand-in model for tests of the session: it speaks every phone for a fixed time and draws a noisy still.

Everything around it is the real thing: engine, session, text front end, bundle.
"""
from __future__ import annotations

import copy
from dataclasses import astuple, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from streamchar_rt.bundle import open_bundle, save_bundle
from streamchar_rt.config import EngineConfig
from streamchar_rt.engine import Engine
from streamchar_rt.lanes import Lanes
from streamchar_rt.orchestrator.lexicon import PhoneToken
from streamchar_rt.orchestrator.pronounce import Pronouncer
from streamchar_rt.orchestrator.units import END, PHONE_ID, is_pause
from streamchar_rt.pipeline import RawChunk, Style

HALF_FRAMES = 32
PHONE_LENGTH = 5  # half-frames
PAUSE_LENGTH = 7
AHEAD = 928  # samples; less than a chunk's lead over the clock


@dataclass(frozen=True)
class Features:
    picture: torch.Tensor

    def to_tensors(self) -> dict[str, torch.Tensor]:
        return {"picture": self.picture}

    @classmethod
    def from_tensors(cls, models: object, tensors: dict[str, torch.Tensor]) -> Features:
        return cls(tensors["picture"])


class State:
    """Keeps the promises of ``pipeline.StreamState``."""

    def __init__(self, models: object, features: Features, seed: int) -> None:
        self.seed = seed
        self.chunk_index = 0
        self.pointer = 0
        self.spent = 1000
        self.holds: dict[int, int] = {}
        self.stalled = False
        self.rows = [(END, 0, False)]  # by place
        self.styles: list[Style] = []
        self.anchors = 0
        self.rest = np.zeros(AHEAD, np.float32)  # sound that is planned already
        self.picture = features.picture.numpy()

    @property
    def pending(self) -> int:
        return len(self.rows) - 1 - self.pointer

    def append_units(self, units) -> range:
        first = len(self.rows)
        self.rows += [tuple(unit) for unit in units]
        return range(first, len(self.rows))

    def drop_after(self, place: int) -> None:
        assert place >= self.pointer
        del self.rows[place + 1 :]
        self.holds = {held: left for held, left in self.holds.items() if held <= place}

    def cut(self) -> int:
        self.drop_after(self.pointer)
        self.holds.clear()
        if self.rows[-1][0] != END:
            (self.pointer,) = self.append_units([(END, 0, False)])
            self.spent = 1000
        return self.pointer

    def reanchor(self) -> None:
        self.anchors += 1

    def audio_ahead(self) -> np.ndarray:
        return self.rest.copy()

    def clone(self) -> State:
        return copy.deepcopy(self)

    def export(self) -> dict:
        content = {**vars(self), "styles": [astuple(style) for style in self.styles]}
        del content["picture"]
        return content

    @classmethod
    def from_export(cls, models: object, features: Features, content: dict) -> State:
        self = cls(models, features, content["seed"])
        if {*content, "picture"} != set(vars(self)):
            raise ValueError("not a state of the stand-in")
        vars(self).update(content, styles=[Style(*values) for values in content["styles"]])
        return self


def denoise_step(step: int) -> None:
    """For tests to replace: what happens within a step."""


def paint(state: State, noise: np.random.Generator) -> np.ndarray:
    """For tests to replace: the pictures of a chunk, (16, 64, 64, 4). The character with a little noise in its red."""
    video = np.repeat(state.picture[None], 16, 0)
    video[..., 0] ^= noise.integers(0, 2, video.shape[:3], np.uint8)
    return video


def generate_chunk(models, state: State, style: Style, *, steps: int, should_stop=None) -> RawChunk:
    """Goes through the units at a fixed pace; END waits for more."""
    for step in range(steps):
        if should_stop is not None and should_stop():
            return None
        denoise_step(step)
    places, elapsed = [], []
    ahead = [unit for unit, _, _ in state.rows[state.pointer + 1 :]]
    assert END in ahead or len(ahead) >= 24 or state.rows[state.pointer][0] == END, "neither look-ahead nor END"
    for _ in range(HALF_FRAMES):
        unit = state.rows[state.pointer][0]
        length = 1 if unit == END else PAUSE_LENGTH if is_pause(unit) else PHONE_LENGTH
        left = state.holds.get(state.pointer)
        if state.pending and (state.spent >= length if left is None else left == 0):
            state.holds.pop(state.pointer, None)
            state.pointer += 1
            state.spent = 0
        if state.holds.get(state.pointer):
            state.holds[state.pointer] -= 1
        places.append(state.pointer)
        elapsed.append(state.spent)
        state.spent += 1
    noise = np.random.default_rng([state.seed, state.chunk_index, steps, style.voice, style.emotion, style.mode])
    state.chunk_index += 1
    state.styles.append(style)
    sound = np.concatenate([state.rest, noise.uniform(-1, 1, 10240).astype(np.float32)])
    state.rest = sound[10240:]
    timings = dict.fromkeys(("orchestrator", "context", "denoise", "audio_decode", "video_decode", "total"), 0.25)
    return RawChunk(
        audio=sound[:10240],
        video=paint(state, noise),
        places=np.array(places), elapsed=np.array(elapsed), confidence=1.0, timings=timings,
    )  # fmt: skip


def generate_chunks(models, states, styles, *, steps: int, should_stop, finish=lambda i, raw: raw) -> list:
    return [
        finish(i, generate_chunk(models, state, style, steps=steps, should_stop=stop))
        for i, (state, style, stop) in enumerate(zip(states, styles, should_stop, strict=True))
    ]


pipeline = SimpleNamespace(
    CharacterFeatures=Features,
    RawChunk=RawChunk,
    StreamState=State,
    Style=Style,
    encode_character=lambda models, rgba: Features(torch.from_numpy(rgba.copy())),
    generate_chunk=generate_chunk,
    generate_chunks=generate_chunks,
)

WORDS = {
    "hello": "hh ax l ow", "there": "dh eh r", "my": "m ay", "friend": "f r eh n d", "one": "w ah n", "two": "t uw",
    "five": "f ay v", "dollars": "d aa l er z", "good": "g uh d", "morning": "m ao r n ih ng", "a": "ax",
    "warming": "w ao r m ih ng", "up": "ah p", "the": "dh ax", "cat": "k ae t", "sat": "s ae t",
}  # fmt: skip


class _Dictionary:
    """In place of the lexicon."""

    def get(self, word: str):
        phones = WORDS.get(word)
        return None if phones is None else tuple(PhoneToken(PHONE_ID[p], 0) for p in phones.split())

    def __contains__(self, word: str) -> bool:
        return word in WORDS


class _Spelling:
    """In place of the letter-to-sound net: one phone a letter."""

    def phones(self, word: str):
        return tuple(PhoneToken(PHONE_ID["ah" if c in "aeiou" else "t"], 0) for c in word if c.isalpha())


MANIFEST = {
    "name": "stand-in",
    "stream": {
        "sample_rate": 16000, "fps": [25, 1], "width": 64, "height": 64, "chunk_frames": 16, "chunk_samples": 10240,
        "alpha_mode": "straight", "capabilities": ["words"],
    },
    "model": {}, "steps": 2, "voices": ["low", "high"], "emotions": ["neutral", "happy", "sad"],
    "characters": [
        {"name": "dot", "file": "characters/dot.png", "voice": "high"},
        {"name": "square", "file": "characters/square.png", "voice": "low"},
    ],
    "memory": {"session": 1000, "workspace": 500},
}  # fmt: skip


def make_bundle(folder: Path) -> Path:
    """A small whole bundle, with random weights and two pictures."""
    pictures = {}
    for entry in MANIFEST["characters"]:
        path = folder.parent / f"{entry['name']}.png"
        Image.new("RGBA", (80, 64), (200, 80, 40, 255)).save(path)
        pictures[entry["file"]] = path
    tensors = {"net.weight": torch.randn(8, 4), "net.steps": torch.tensor([3])}
    save_bundle(folder, MANIFEST, tensors, pictures)
    return folder


def make_engine(folder: Path, **overrides) -> Engine:
    """An engine whose model is the stand-in; ``folder``: where its bundle is, or where to put one."""
    there = folder / "bundle"
    bundle = open_bundle(there if there.is_dir() else make_bundle(there))
    models = SimpleNamespace(denoiser=SimpleNamespace(layout=SimpleNamespace(audio_lead=2.0)), lanes=Lanes())
    config = EngineConfig(**{"max_sessions": 8, **overrides})
    return Engine(bundle, config, pipeline, models, Pronouncer(_Dictionary(), _Spelling()), threads=1)
