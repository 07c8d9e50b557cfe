"""Stage II: distil on chunks that the student generates one after the other, from its own past.

    python -m tools.train.rollout --teacher DIR --init DIR --orchestrator DIR --streams DIR --out DIR --minutes 30
    python -m tools.train.rollout --teacher DIR --init DIR --orchestrator DIR --streams DIR --scenes DIR --out DIR ...

``--init`` is stage I's student; its critic comes along. As at run time, the orchestrator plans on the noisy sound
of the first step, the pointer of a finished chunk says where the next one begins in the transcript, and the context is the
reference, the first chunk as the sink and the last chunk as motion, all of them the student's own clean tokens. The
distribution matching loss falls on what was generated, and critic and teacher see it with the same past and the same
part of the transcript.

A rollout is run without gradient and in full steps, so its past is exactly the run time's. What it keeps of a chunk is
the student's input at one random step with the alignment it was given there; that step alone is taken again with
gradient. Memory is therefore that of ``--graded`` chunks, however long the rollout.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from streamchar_rt.denoiser.dit import Style, patchify
from streamchar_rt.orchestrator.condition import LONGEST
from streamchar_rt.orchestrator.model import Orchestrator, TranscriptWindow
from streamchar_rt.orchestrator.packed import PlainOrchestrator
from streamchar_rt.orchestrator.units import PAD
from streamchar_rt.planner import PLANS, Plan

from .batches import StreamSampler
from .denoiser import Denoiser, audio_tokens, data_on
from .device_planner import DevicePlanner, DeviceTranscripts
from .distill import draw_noise, evaluation, movement_of
from .distribution_matching import Distiller, add_distillation_arguments, check_distillation_arguments
from .few_step import Exit, Given, Pair, euler, velocity
from .loop import load_weights
from .on_device import upload
from .scenes import Scenes
from .streams import CHUNK, Streams


class Sight:
    """The transcript that is visible: the units ``first`` to ``last`` of the streams."""

    def __init__(self, streams: Streams, first: int, last: int):
        self.streams, self.first, self.last = streams, first, last

    def window(self, first: int, count: int) -> np.ndarray:
        """Rows (count, 3) of unit, stress and word start from place ``first``; PAD outside."""
        out = np.zeros((count, 3), np.int64)
        out[:, 0] = PAD
        s, low, high = self.streams, max(first, self.first), min(first + count, self.last + 1)
        if high > low:
            out[low - first: high - first] = np.stack([s.unit[low:high], s.stress[low:high], s.word_start[low:high]], 1)
        return out


class Transcript:
    """One stream's progress through its transcript: what ``Plan`` asks of ``pipeline.StreamState``."""

    def __init__(self, models: SimpleNamespace, streams: Streams, row: np.ndarray, past: int):
        """As it truly is before the chunk ``row`` of ``streams.chunks``."""
        at = int(row[0])
        self.models = models
        self.units = Sight(streams, int(row[2]), int(row[3]))
        self.pointer = int(streams.place[at - 1])
        self.elapsed, self.holds, self.stalled = min(LONGEST, int(streams.elapsed[at - 1])), {}, False
        place = streams.place[at - past: at]
        self.past = np.stack([streams.unit[place], streams.stress[place], streams.word_start[place],
                              np.minimum(streams.elapsed[at - past: at], LONGEST)], 1).astype(np.int64)

    def see(self, last: int) -> None:
        """Units up to ``last`` have been pushed."""
        self.units.last = max(self.units.last, last)

    def advance(self, plan: Plan, slots: int) -> None:
        """Move behind the chunk that was generated with ``plan``."""
        self.elapsed = int(plan.elapsed[slots - 1])
        self.past = plan.half_frames[slots: slots + len(self.past)]
        self.pointer = plan.first + int(plan.path[slots - 1])


@dataclass
class Start:
    """Streams about to be rolled out."""
    transcripts: Sequence[Transcript] | DeviceTranscripts
    visible: np.ndarray              # int64 (B, K): the last unit pushed before each chunk
    history: torch.Tensor            # (B, H, 80) normalised mel before the first chunk
    style: list[Style]               # of each chunk
    reference: torch.Tensor | None
    sink: Pair | None                # None: the first chunk becomes the sink, where there is picture
    motion: Pair | None
    video_tokens: int                # of a chunk: 0 without picture


class Planner:
    """The orchestrator for several streams at once, as ``planner`` runs it for a session's chunk."""

    def __init__(self, orchestrator: Orchestrator, device: torch.device):
        self.net, self.device = orchestrator.eval().requires_grad_(False).to(device), device
        # ``Plan.follow`` encodes its alignment at once; here student, critic and teacher each have their own encoder.
        features_alone = PlainOrchestrator(orchestrator, lambda features, voice: features)
        self.models = SimpleNamespace(orchestrator=orchestrator, orchestration=features_alone)

    def read(self, transcripts: Sequence[Transcript], history: torch.Tensor, voice: torch.Tensor):
        """Plans of the streams' next chunks, and the language model's states."""
        plans = [Plan(t, SimpleNamespace(voice=int(v))) for t, v in zip(transcripts, voice)]
        window = torch.from_numpy(np.stack([plan.rows for plan in plans])).to(self.device).unbind(-1)
        config = self.net.config
        tokens = history.reshape(len(history), config.history_tokens, -1)
        return plans, self.net.encode(TranscriptWindow(*window), tokens, voice)

    def transcripts(self, streams: Streams, rows: np.ndarray, past: int) -> Sequence[Transcript]:
        """Before the chunks ``rows`` (B, 6)."""
        return [Transcript(self.models, streams, row, past) for row in rows]

    def see(self, transcripts: Sequence[Transcript], last: np.ndarray) -> None:
        for transcript, unit in zip(transcripts, last):
            transcript.see(int(unit))

    def advance(self, transcripts: Sequence[Transcript], plans: Sequence[Plan]) -> None:
        for transcript, plan in zip(transcripts, plans):
            transcript.advance(plan, self.net.config.slots)

    def align(self, plans: Sequence[Plan], states, mel: torch.Tensor, t: float) -> torch.Tensor:
        """Alignment features (B, past + slots + lookahead, F) of the noisy chunks; the plans keep the alignments."""
        logits, _ = self.net.align(states, mel, torch.full((1,), t, device=self.device))
        return torch.cat([plan.follow(each) for plan, each in zip(plans, logits.cpu())]).to(self.device)


@torch.no_grad()
def roll_out(student: Denoiser, planner: Planner | DevicePlanner, start: Start, noises: Sequence[Pair], steps: int,
             stops: Sequence[int | None], autocast) -> tuple[list[Exit], list[Pair]]:
    """Generate a chunk for every noise, each from the ones before.

    ``stops``: the step at which each chunk's student is to learn; None where it is not. Returns those chunks' exits,
    and all chunks. The orchestrator is never autocast: it plans as it does at run time.
    """
    config = planner.net.config
    motion, sink, history = start.motion, start.sink, start.history
    exits, chunks = [], []
    for k, (noise, stop) in enumerate(zip(noises, stops)):
        planner.see(start.transcripts, start.visible[:, k])
        style = start.style[k]
        plans, states = planner.read(start.transcripts, history, style.voice)
        x = noise
        for i in range(steps):
            if i < PLANS:
                mel = x[1].reshape(len(history), config.slots, config.mel_bins)
                given = Given(start.reference, sink, motion, planner.align(plans, states, mel, i / steps), style)
            t = torch.full((len(history),), i / steps, device=history.device)
            if i == stop:
                exits.append(Exit(given, x, t, noise))
            with autocast:
                x = euler(x, velocity(student, given, x, t), steps)
        mel = x[1].reshape(len(history), config.slots, config.mel_bins)
        history = torch.cat([history, mel], 1)[:, -history.shape[1]:]
        planner.advance(start.transcripts, plans)
        motion = x
        if sink is None and k == 0 and start.motion is None and start.video_tokens:
            sink = x
        chunks.append(x)
    return exits, chunks


class Starts:
    """Random places of the data from which several chunks follow."""

    def __init__(self, sampler: StreamSampler, scenes: Scenes | None, planner: Planner | DevicePlanner, student: Denoiser,
                 device: torch.device):
        self.sampler, self.scenes, self.planner, self.device = sampler, scenes, planner, device
        self.config, self.past = student.dit.config, student.condition.config.past
        self.fresh_share = 0.5       # rollouts that begin without a past, and so get the student's own sink

    def sample(self, count: int, length: int, picture: bool) -> Start:
        """``count`` streams with the transcript, emotion and mode of ``length`` chunks."""
        rng = self.sampler.rng
        fresh = rng.random() < self.fresh_share
        mel = lambda rows, begin, length: self.sampler.mel(rows, begin, length).to(self.device)
        tensor = lambda a: upload(np.ascontiguousarray(a, np.int64), self.device)
        reference = sink = motion = None
        if picture:
            at = self.scenes.runs(count, length, rng)
            scene, rows = self.scenes.take(at[:, 0], rng), self.scenes.rows[at]
            reference, video_tokens = patchify(scene.reference).to(self.device), self.config.layout.video_tokens
            emotion, mode = self.scenes.emotion[at], self.scenes.mode[at]
            before = patchify(scene.motion).to(self.device)
            if not fresh:
                sink = patchify(scene.sink).to(self.device), audio_tokens(mel(scene.sink_rows[:, None], 0, CHUNK))
        else:
            rows, video_tokens = self.sampler.runs(count, length), 0
            emotion, mode = np.full((count, length), self.config.emotions), np.full((count, length), self.config.modes)
            before = torch.zeros(count, 0, self.config.video_features, device=self.device)
        first, history = rows[:, 0], 2 * self.planner.net.config.history_tokens
        if not fresh:
            motion = before, audio_tokens(mel(first, -CHUNK, CHUNK))
        styles = [Style(tensor(first[:, 1]), tensor(emotion[:, k]), tensor(mode[:, k])) for k in range(length)]
        transcripts = self.planner.transcripts(self.sampler.streams, first, self.past)
        return Start(transcripts, rows[:, :, 3], mel(first, -history, history), styles, reference, sink, motion,
                     video_tokens)


def choose_stops(length: int, graded: int, steps: int, rng: np.random.Generator) -> list[int | None]:
    """For ``graded`` random chunks of a rollout a random step each; the rollout ends with the last of them."""
    chosen = rng.choice(length, min(graded, length), replace=False)
    return [int(rng.integers(steps)) if k in chosen else None for k in range(max(chosen) + 1)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_distillation_arguments(parser, minutes=30, lr=2e-5, batch=16)
    parser.add_argument("--orchestrator", type=Path, required=True, help="folder of tools.train.orchestrator")
    parser.add_argument("--chunks", type=int, default=4, help="of a rollout")
    parser.add_argument("--graded", type=int, default=2, help="chunks of a rollout that the loss falls on")
    args = parser.parse_args(arguments)
    check_distillation_arguments(parser, args)
    scenes = Scenes.load(args.scenes) if args.scenes else None
    distiller = Distiller(args, movement=movement_of(scenes, torch.device(args.device)))
    loop, student = distiller.loop, distiller.student
    orchestrator = Orchestrator()
    orchestrator.load_state_dict(load_weights(args.orchestrator))
    streams = Streams.load(args.streams)
    samplers, scenes = data_on(loop.device, streams, scenes)
    sampler = samplers(seed=args.seed + loop.iteration)
    planner = Planner(orchestrator, loop.device) if loop.device.type == "cpu" else DevicePlanner(orchestrator, sampler.data)
    starts = Starts(sampler, scenes, planner, student, loop.device)
    config = student.dit.config

    def draw(picture: bool) -> list[Exit]:
        count = args.scene_batch if picture else args.batch
        start = starts.sample(count, args.chunks, picture)
        stops = choose_stops(args.chunks, args.graded, args.steps, sampler.rng)
        like = (torch.zeros(count, start.video_tokens, config.video_features, device=loop.device),
                torch.zeros(count, config.layout.audio_tokens, config.audio_features, device=loop.device))
        noises = [draw_noise(like) for _ in stops]
        return roll_out(distiller.asked_student, planner, start, noises, args.steps, stops, loop.autocast())[0]

    distiller.run(draw, evaluation(distiller, streams), scenes is not None)


if __name__ == "__main__":
    main()
