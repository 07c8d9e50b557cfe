"""The judge: pocketsphinx with its own American English model, independent of anything that is trained here."""

from __future__ import annotations

import numpy as np

SAMPLE_RATE = 16_000
_SILENCE = np.zeros(SAMPLE_RATE // 4, np.int16)


class Recogniser:
    """16 kHz speech → words. Deterministic: every call decodes one whole utterance with the same start."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
        self._initial_mean = self._decoder.get_cmn()

    def __call__(self, samples: np.ndarray) -> str:
        """Text of (n,) float in [-1, 1] or int16 samples, lower case; empty if nothing was heard.

        A quarter of a second of silence is put on either side, and the cepstral mean is set back, so that the result
        depends neither on where the speech was cut nor on what was recognised before.
        """
        self._decode(samples)
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""

    def words(self, samples: np.ndarray) -> list[tuple[str, float, float]]:
        """The same with times: (word, begin, end) in seconds of ``samples``; silence and noises left out."""
        self._decode(samples)
        if self._decoder.hyp() is None:
            return []
        lead, rate = len(_SILENCE) / SAMPLE_RATE, self._decoder.config["frate"]
        plain = lambda word: word.split("(")[0]  # of a second pronunciation
        return [(plain(s.word), s.start_frame / rate - lead, (s.end_frame + 1) / rate - lead)
                for s in self._decoder.seg() if not s.word.startswith(("<", "[", "+"))]

    def _decode(self, samples: np.ndarray) -> None:
        samples = np.asarray(samples)
        if samples.dtype != np.int16:
            samples = (np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
        decoder = self._decoder
        decoder.set_cmn(self._initial_mean)
        decoder.start_utt()
        decoder.process_raw(np.concatenate([_SILENCE, samples, _SILENCE]).tobytes(), full_utt=True)
        decoder.end_utt()
