"""The flite synthesiser through its C library (Debian's ``libflite1``), with its linguistic structure.

flite keeps an utterance as relations (lists and trees) over shared items. The struct heads below are
the public ones of flite 2.x; everything else goes through its accessor functions.
"""

from __future__ import annotations

import ctypes as C
import functools
from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16_000


class FliteMissingError(RuntimeError):
    """libflite or a voice of it cannot be loaded; the message names the package to install."""


@dataclass(frozen=True, slots=True)
class VoiceInfo:
    """What flite itself does not tell about a voice."""

    name: str
    default_stretch: float  # the voice's own duration_stretch
    pitch_feature: bytes | None  # feature that scales f0; None: the voice ignores it


VOICES: dict[str, VoiceInfo] = {
    # rms predicts f0 inside its spectral model and ignores every f0 feature.
    "rms": VoiceInfo("rms", 1.0, None),
    "slt": VoiceInfo("slt", 1.0, b"f0_shift"),
    "awb": VoiceInfo("awb", 1.0, b"f0_shift"),
    "kal16": VoiceInfo("kal16", 1.1, b"f0_shift"),
}


@dataclass(frozen=True, slots=True)
class Segment:
    """One phone (or ``pau``) as flite spoke it; ``word`` indexes the utterance's words, -1 for a pause."""

    name: str
    end: float  # seconds
    stress: int  # of the syllable
    word: int


@dataclass(frozen=True, slots=True)
class FliteWord:
    """One item of flite's Word relation, after its text normalisation."""

    name: str
    token: str  # the written token that it came from, without punctuation
    token_id: int  # the same for all the words of one token
    punctuation: str  # that follows the token


class _VoiceHead(C.Structure):
    _fields_ = [("name", C.c_char_p), ("features", C.c_void_p)]


class _Wave(C.Structure):
    _fields_ = [
        ("type", C.c_char_p), ("sample_rate", C.c_int), ("num_samples", C.c_int), ("num_channels", C.c_int),
        ("samples", C.POINTER(C.c_short)),
    ]  # fmt: skip


class _ItemHead(C.Structure):
    _fields_ = [("contents", C.c_void_p)]


_PROTOTYPES: dict[str, tuple[list[type], type | None]] = {
    "flite_synth_text": ([C.c_char_p, C.c_void_p], C.c_void_p),
    "delete_utterance": ([C.c_void_p], None),
    "utt_relation": ([C.c_void_p, C.c_char_p], C.c_void_p),
    "utt_wave": ([C.c_void_p], C.c_void_p),
    "relation_head": ([C.c_void_p], C.c_void_p),
    "item_next": ([C.c_void_p], C.c_void_p),
    "item_parent": ([C.c_void_p], C.c_void_p),
    "item_as": ([C.c_void_p, C.c_char_p], C.c_void_p),
    "item_feat_string": ([C.c_void_p, C.c_char_p], C.c_char_p),
    "item_feat_float": ([C.c_void_p, C.c_char_p], C.c_float),
    "ffeature_string": ([C.c_void_p, C.c_char_p], C.c_char_p),
    "feat_set_float": ([C.c_void_p, C.c_char_p, C.c_float], None),
    "lex_lookup": ([C.c_void_p, C.c_char_p, C.c_char_p, C.c_void_p], C.c_void_p),
    "in_lex": ([C.c_void_p, C.c_char_p, C.c_char_p, C.c_void_p], C.c_int),
    "val_car": ([C.c_void_p], C.c_void_p),
    "val_cdr": ([C.c_void_p], C.c_void_p),
    "val_string": ([C.c_void_p], C.c_char_p),
    "delete_val_list": ([C.c_void_p], None),
}

# feat_set keeps the caller's pointer to the feature's name, so the names must outlive every voice.
_STRETCH = b"duration_stretch"


class Flite:
    """One loaded flite with its voices. Not thread-safe: voices carry the settings of the last call."""

    def __init__(self) -> None:
        self._lib = self._load("libflite.so.1")
        self._cmulex = self._load("libflite_cmulex.so.1")
        self._load("libflite_usenglish.so.1")
        for name, (arguments, result) in _PROTOTYPES.items():
            function = getattr(self._lib, name)
            function.argtypes, function.restype = arguments, result
        self._libc = C.CDLL(None)
        self._lib.flite_init()
        self._voices: dict[str, int] = {}
        self._lexicon_pointer: int | None = None

    @staticmethod
    def _load(name: str) -> C.CDLL:
        try:
            return C.CDLL(name, mode=C.RTLD_GLOBAL)
        except OSError as error:
            raise FliteMissingError(f"{name} cannot be loaded ({error}); install Debian's package libflite1") from error

    def _voice(self, name: str) -> int:
        if name not in VOICES:
            raise ValueError(f"unknown flite voice {name!r}; the voices are {', '.join(VOICES)}")
        if name not in self._voices:
            register = getattr(self._load(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
            register.argtypes, register.restype = [C.c_char_p], C.c_void_p
            self._voices[name] = register(None)
        return self._voices[name]

    def synthesize(
        self, text: str, voice: str, stretch: float = 1.0, f0_scale: float = 1.0
    ) -> tuple[np.ndarray, list[Segment], list[FliteWord]]:
        """Speak ``text``: (int16 samples at 16 kHz, segments with pauses, words)."""
        pointer, info = self._voice(voice), VOICES[voice]
        features = C.cast(pointer, C.POINTER(_VoiceHead)).contents.features
        self._lib.feat_set_float(features, _STRETCH, info.default_stretch * stretch)
        if info.pitch_feature is not None:
            self._lib.feat_set_float(features, info.pitch_feature, f0_scale)
        elif f0_scale != 1.0:
            raise ValueError(f"voice {voice!r} has no pitch control; use one of slt, awb, kal16")
        self._libc.srand(1)  # the excitation noise comes from rand(): the same text gives the same bytes
        utterance = self._lib.flite_synth_text(text.encode("ascii", "ignore"), pointer)
        try:
            samples = self._samples(utterance)
            word_index, words = self._words(utterance)
            return samples, self._segments(utterance, word_index), words
        finally:
            self._lib.delete_utterance(utterance)

    def _samples(self, utterance: int) -> np.ndarray:
        wave = C.cast(self._lib.utt_wave(utterance), C.POINTER(_Wave)).contents
        if wave.sample_rate != SAMPLE_RATE or wave.num_channels != 1:
            raise RuntimeError(f"flite gave {wave.num_channels} channels at {wave.sample_rate} Hz; 1 at 16000 expected")
        if wave.num_samples == 0:
            return np.zeros(0, np.int16)
        return np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()

    def _items(self, utterance: int, relation: bytes):
        item = self._lib.relation_head(self._lib.utt_relation(utterance, relation))
        while item:
            yield item
            item = self._lib.item_next(item)

    @staticmethod
    def _identity(item: int) -> int:
        # An item has one node per relation; the contents they share are what makes it the same item.
        return C.cast(item, C.POINTER(_ItemHead)).contents.contents

    def _words(self, utterance: int) -> tuple[dict[int, int], list[FliteWord]]:
        index: dict[int, int] = {}
        words: list[FliteWord] = []
        for item in self._items(utterance, b"Word"):
            index[self._identity(item)] = len(words)
            token = self._lib.item_as(item, b"Token")
            parent = self._lib.item_parent(token) if token else None
            words.append(
                FliteWord(
                    self._lib.item_feat_string(item, b"name").decode("ascii", "replace"),
                    self._lib.item_feat_string(parent, b"name").decode("ascii", "replace") if parent else "",
                    self._identity(parent) if parent else -1,
                    self._lib.ffeature_string(item, b"R:Token.parent.punc").decode("ascii", "replace"),
                )
            )
        return index, words

    def _segments(self, utterance: int, word_index: dict[int, int]) -> list[Segment]:
        segments = []
        for item in self._items(utterance, b"Segment"):
            word, node = -1, self._lib.item_as(item, b"SylStructure")
            syllable = self._lib.item_parent(node) if node else None
            parent = self._lib.item_parent(syllable) if syllable else None
            if parent:
                word = word_index[self._identity(parent)]
            segments.append(
                Segment(
                    self._lib.item_feat_string(item, b"name").decode(),
                    self._lib.item_feat_float(item, b"end"),
                    int(self._lib.ffeature_string(item, b"R:SylStructure.parent.stress") or b"0"),
                    word,
                )
            )
        return segments

    def pronounce(self, word: str, part_of_speech: str | None = None) -> list[str]:
        """flite's phones of a word as written in lower case, vowels with their stress digit (``ah1``).

        Words outside its lexicon go through its letter-to-sound rules; see :meth:`in_lexicon`.
        """
        head = self._lib.lex_lookup(self._lexicon, word.encode("ascii"), self._pos(part_of_speech), None)
        phones, node = [], head
        while node:
            phones.append(self._lib.val_string(self._lib.val_car(node)).decode())
            node = self._lib.val_cdr(node)
        if head:
            self._lib.delete_val_list(head)
        return phones

    def in_lexicon(self, word: str, part_of_speech: str | None = None) -> bool:
        """Whether flite's lexicon (not its rules) knows the word."""
        return bool(self._lib.in_lex(self._lexicon, word.encode("ascii"), self._pos(part_of_speech), None))

    @staticmethod
    def _pos(part_of_speech: str | None) -> bytes | None:
        return part_of_speech.encode() if part_of_speech else None

    @property
    def _lexicon(self) -> int:
        if self._lexicon_pointer is None:
            self._cmulex.cmulex_init.restype = C.c_void_p
            self._lexicon_pointer = self._cmulex.cmulex_init()
        return self._lexicon_pointer


@functools.cache
def flite() -> Flite:
    """The process's flite: the C library itself keeps one set of voices per process."""
    return Flite()
