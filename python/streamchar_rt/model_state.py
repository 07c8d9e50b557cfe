"""Everything that changes in one stream of the model, between two chunks."""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .codecs import mel as mel_codec
from .codecs.vocoder import LOOKAHEAD, VocoderState
from .denoiser import noise
from .denoiser.context import MOTION
from .models import CharacterFeatures, Models
from .orchestrator.condition import LONGEST
from .orchestrator.eyes import first_eyes
from .orchestrator.units import END, PAD

#: What of a state is plain values, arrays and tensors.
_VALUES = ("seed", "chunk_index", "pointer", "elapsed", "holds", "stalled", "eyes", "history", "past", "previous_latent",
           "audio_rest")


class _Units:
    """The transcript units in sight. Places are absolute and never reused; what was spoken is forgotten."""

    def __init__(self) -> None:
        self.base = 0
        self.rows: list[tuple[int, int, int]] = [(END, 0, 0)]

    @property
    def stop(self) -> int:
        return self.base + len(self.rows)

    def copy(self) -> "_Units":
        other = _Units()
        other.base, other.rows = self.base, list(self.rows)
        return other

    def forget_before(self, place: int) -> None:
        drop = max(0, place - self.base)
        del self.rows[:drop]
        self.base += drop

    def window(self, first: int, count: int) -> np.ndarray:
        """Rows (count, 3) from place ``first``; PAD outside."""
        out = np.zeros((count, 3), np.int64)
        out[:, 0] = PAD
        low, high = max(first, self.base), min(first + count, self.stop)
        if high > low:
            out[low - first: high - first] = self.rows[low - self.base: high - self.base]
        return out


class StreamState:
    """Everything that changes in one stream."""

    def __init__(self, models: Models, character: CharacterFeatures, seed: int):
        config, condition = models.orchestrator.config, models.condition.config
        self.models, self.character, self.seed = models, character, seed
        self.chunk_index = 0
        self.pointer = 0                               # place of the unit spoken at the end of the last chunk
        self.units = _Units()
        silence = (mel_codec.SILENCE - mel_codec.MEAN) / mel_codec.STD
        self.history = torch.full((2 * config.history_tokens, config.mel_bins), silence, device=models.device)
        self.elapsed = LONGEST
        self.holds: dict[int, int] = {}                # half-frames for which units at and behind it are to last
        self.stalled = False                           # the pointer stands still: see ``resync``
        # What they are about.
        self.eyes = list(first_eyes(noise.generator(seed=seed, chunk=0, step=1, stream=noise.EYES)))
        # unit, stress, word start and elapsed of the half-frames before the chunk
        self.past = np.tile(np.array([END, 0, 0, LONGEST]), (condition.past, 1))
        self.previous_latent: torch.Tensor | None = None
        self.vocoder: VocoderState = models.vocoder.start(device=models.device)
        self.audio_rest = torch.zeros(0, device=models.device)
        self.cache = models.denoiser.new_cache()
        with torch.inference_mode():
            models.denoiser.write_reference(self.cache, character.features[-1])
            self._start_audio()

    def _start_audio(self) -> None:
        """The mel leads the picture: decode the silence of the first frames and drop what lies before zero."""
        models, config = self.models, self.models.vocoder.config
        lead = int(models.denoiser.layout.audio_lead * 2)
        mel = torch.full((1, lead, config.mel_bins), mel_codec.SILENCE, device=models.device)
        samples, self.vocoder = models.vocoder.stream(mel, self.vocoder)
        self.audio_rest = samples[0, config.rest // 2:]

    @property
    def pending(self) -> int:
        """Units appended and not yet reached."""
        return self.units.stop - 1 - self.pointer

    def append_units(self, units: Sequence[tuple[int, int, bool]]) -> range:
        """Append (unit, stress, word_start); returns their places."""
        first = self.units.stop
        self.units.rows.extend((int(u), int(s), int(w)) for u, s, w in units)
        return range(first, self.units.stop)

    def drop_after(self, place: int) -> None:
        """Forget the units after ``place``, which must not lie before the pointer."""
        if place < self.pointer:
            raise ValueError(f"place {place} was already spoken (the pointer is at {self.pointer})")
        del self.units.rows[place + 1 - self.units.base:]
        self.holds = {held: half_frames for held, half_frames in self.holds.items() if held <= place}

    def come_to(self, place: int, spent: int) -> None:
        """Moves the pointer on; ``spent``: half-frames of the chunk at that place."""
        self.pointer = place
        self.holds = {held: half_frames for held, half_frames in self.holds.items() if held >= place}
        if place in self.holds:
            self.holds[place] = max(0, self.holds[place] - spent)
            if not self.holds[place] and not self.pending:     # over before there was anything to go on with
                del self.holds[place]

    def reanchor(self) -> None:
        """The next chunk sees the reference and the sink alone, and nothing of a last chunk that has drifted.

        Picture and sound may jump there, so it is best done in silence. Speech, words and clock go on as they were.
        """
        self.cache.clear(MOTION)

    def export(self) -> dict[str, Any]:
        """Everything but models and character, as plain values, arrays and tensors of the CPU; see ``from_export``."""
        return {
            "values": {name: _moved(getattr(self, name), "cpu") for name in _VALUES},
            "units": {"base": self.units.base, "rows": np.array(self.units.rows, np.int64)},
            "vocoder": _moved(vars(self.vocoder), "cpu"),
            "cache": self.cache.state_dict()}

    @classmethod
    def from_export(cls, models: Models, character: CharacterFeatures, content: Mapping[str, Any]) -> "StreamState":
        """A stream that goes on from an export. KeyError, TypeError, ValueError where that is not a whole one."""
        self = object.__new__(cls)
        self.models, self.character = models, character
        values = content["values"]
        if set(values) != set(_VALUES):
            raise ValueError(f"a state of {sorted(values)}")
        vars(self).update(_moved(values, models.device))
        self.units = _Units()
        self.units.base = content["units"]["base"]
        self.units.rows = [tuple(map(int, row)) for row in content["units"]["rows"]]
        self.vocoder = VocoderState(**_moved(content["vocoder"], models.device))
        self.cache = models.denoiser.new_cache()
        self.cache.load_state_dict(content["cache"])
        return self

    def cut(self) -> int:
        """Drop what lies ahead and stand at an END: the unit being spoken is over. Returns the END's place."""
        self.drop_after(self.pointer)
        self.holds.clear()
        if self.units.rows[-1][0] != END:
            self.pointer = self.append_units([(END, 0, False)])[0]
            self.elapsed = LONGEST
        return self.pointer

    @torch.inference_mode()
    def audio_ahead(self) -> np.ndarray:
        """What would be heard next of the sound that is planned already: float32 samples, a few hundredths of a
        second. The mel leads the clock; the frames that the vocoder would look ahead to are held still."""
        last = self.history[-1:].expand(LOOKAHEAD, -1)[None]
        samples, _ = self.models.vocoder.stream(mel_codec.denormalize(last), self.vocoder)
        return torch.cat([self.audio_rest, samples[0]]).clamp(-1.0, 1.0).cpu().numpy().copy()

    def clone(self) -> "StreamState":
        """An independent stream that goes on from here; cached keys are shared until rewritten."""
        other = copy.copy(self)
        other.units = self.units.copy()
        other.past = self.past.copy()
        other.holds = dict(self.holds)
        other.cache = self.cache.fork()
        return other


def _moved(content: Any, device: torch.device | str) -> Any:
    """The same with its tensors on a device; tensors that are there already, as they are."""
    if isinstance(content, torch.Tensor):
        return content.to(device)
    if isinstance(content, dict):
        return {name: _moved(value, device) for name, value in content.items()}
    return [_moved(value, device) for value in content] if isinstance(content, list) else content
