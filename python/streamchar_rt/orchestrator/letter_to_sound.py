"""Letter-to-sound: phones for words that no dictionary has, by a small recurrent net in numpy.

Two bidirectional GRU layers read the letters; each letter gives two slots, and each slot a phone or nothing
(connectionist temporal classification). Weights: ``embedding (26, e)``, for each layer and direction
``layer{0,1}.{forward,backward}.{input_weight (3h, i), hidden_weight (3h, h), input_bias (3h,), hidden_bias (3h,)}``
with the gates in the order reset, update, new, and ``output.weight (2·57, 2h)``, ``output.bias``; class 0 is
nothing, class 1 + c the phone of code c.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from streamchar_rt.errors import BundleError
from streamchar_rt.orchestrator.lexicon import PHONE_CODES, PhoneToken

NUM_CLASSES = 1 + len(PHONE_CODES)
SLOTS_PER_LETTER = 2
LAYERS = 2
MAX_LETTERS = 32  # longer "words" are read in parts, so that the time for one word stays bounded


class LetterToSound:
    """Read-only; safe to share between threads and sessions."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}
        classes = self._weights["output.bias"].shape[0]
        if classes != SLOTS_PER_LETTER * NUM_CLASSES:
            raise ValueError(f"output.bias has {classes} entries; {SLOTS_PER_LETTER * NUM_CLASSES} expected")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LetterToSound:
        """Read a safetensors file; BundleError if it is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return cls(load_file(path))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise BundleError(f"the letter-to-sound net {os.fspath(path)} cannot be read: {error}") from error

    def phones(self, word: str) -> tuple[PhoneToken, ...]:
        """Phones of a word of letters a–z (others are left out); empty for a word without any."""
        letters = np.array([ord(c) - ord("a") for c in word if "a" <= c <= "z"], np.int64)
        result: list[PhoneToken] = []
        for begin in range(0, len(letters), MAX_LETTERS):
            result += self._read(letters[begin : begin + MAX_LETTERS])
        return tuple(result)

    def _read(self, letters: np.ndarray) -> list[PhoneToken]:
        states = self._weights["embedding"][letters]  # (n, e)
        for layer in range(LAYERS):
            forward = self._gru(states, f"layer{layer}.forward")
            backward = self._gru(states[::-1], f"layer{layer}.backward")[::-1]
            states = np.concatenate([forward, backward], axis=1)  # (n, 2h)
        logits = states @ self._weights["output.weight"].T + self._weights["output.bias"]
        best = logits.reshape(-1, NUM_CLASSES).argmax(axis=1)  # (2n,)
        changes = np.flatnonzero(np.diff(best, prepend=0))
        return [PHONE_CODES[best[i] - 1] for i in changes if best[i]]

    def _gru(self, inputs: np.ndarray, name: str) -> np.ndarray:
        """(n, i) → (n, h)"""
        w = {
            key: self._weights[f"{name}.{key}"]
            for key in ("input_weight", "hidden_weight", "input_bias", "hidden_bias")
        }
        projected = inputs @ w["input_weight"].T + w["input_bias"]
        size = projected.shape[1] // 3
        state, states = np.zeros(size, np.float32), np.empty((len(inputs), size), np.float32)
        for t, x in enumerate(projected):
            h = w["hidden_weight"] @ state + w["hidden_bias"]
            gates = 1.0 / (1.0 + np.exp(-(x[: 2 * size] + h[: 2 * size])))
            reset, update = gates[:size], gates[size:]
            new = np.tanh(x[2 * size :] + reset * h[2 * size :])
            state = new + update * (state - new)
            states[t] = state
        return states
