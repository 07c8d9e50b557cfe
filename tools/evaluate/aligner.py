"""When each word of a known text is heard: forced alignment with the recogniser's acoustic model."""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tools.evaluate.heard_words import HeardWord
from tools.evaluate.recognise import SAMPLE_RATE

_SILENCE = np.zeros(SAMPLE_RATE // 4, np.int16)
_OTHER_PHONES = {"ax": "AH"}  # of the transcript's, what the acoustic model has not got by that name


class SpokenWord(NamedTuple):
    text: str
    phones: tuple[str, ...]  # the transcript's; used where the dictionary has not got the word


class Aligner:
    """16 kHz speech and its words → when each is heard, in steps of 10 ms.

    The words must be what is said; where one is not, its times are wherever it fits least badly. Silence may lie
    between any two. Deterministic, like ``Recogniser``.
    """

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
        self._initial_mean = self._decoder.get_cmn()

    def __call__(self, samples: np.ndarray, words: Sequence[SpokenWord]) -> list[HeardWord] | None:
        """Times in seconds of ``samples``, (n,) float in [-1, 1] or int16; None where the words do not fit at all."""
        samples = np.asarray(samples)
        if samples.dtype != np.int16:
            samples = (np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
        decoder = self._decoder
        decoder.set_align_text(" ".join(self._name(word) for word in words))
        decoder.set_cmn(self._initial_mean)
        decoder.start_utt()
        decoder.process_raw(np.concatenate([_SILENCE, samples, _SILENCE]).tobytes(), full_utt=True)
        decoder.end_utt()
        if decoder.hyp() is None:
            return None
        lead, rate = len(_SILENCE) / SAMPLE_RATE, decoder.config["frate"]
        heard = [s for s in decoder.seg() if not s.word.startswith(("<", "[", "+"))]
        if len(heard) != len(words):
            return None
        return [HeardWord(word.text, s.start_frame / rate - lead, (s.end_frame + 1) / rate - lead)
                for word, s in zip(words, heard)]

    def _name(self, word: SpokenWord) -> str:
        """The word as the dictionary has it, or as it is put there."""
        name = re.sub("[^a-z']", "", word.text.lower())
        if not name or self._decoder.lookup_word(name) is None:
            name = "_" + "".join(word.phones)
            if self._decoder.lookup_word(name) is None:
                self._decoder.add_word(name, " ".join(_OTHER_PHONES.get(p, p.upper()) for p in word.phones), True)
        return name
