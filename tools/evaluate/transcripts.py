"""What the protocols say: the held-out sentences, shuffled and joined, the same for everyone who asks with one seed."""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tools.evaluate.wer import words_of

WORDS_A_SECOND = 3.6  # of the true voices, about


def _shuffled(seed: int) -> Iterator[str]:
    from tools.studio.sentences import evaluation_sentences

    sentences, rng = evaluation_sentences(), np.random.default_rng(seed)
    while True:
        for i in rng.permutation(len(sentences)):
            yield sentences[i]


def clip_texts(count: int, seconds: float = 10.0, seed: int = 0) -> list[str]:
    """Texts of about ``seconds`` of speech: each held-out sentence comes once before any comes again."""
    source, texts = _shuffled(seed), []
    for _ in range(count):
        texts.append(_until(source, seconds * WORDS_A_SECOND))
    return texts


def long_texts(count: int, minutes: float, seed: int = 0) -> list[str]:
    """Transcripts that are longer than ``minutes`` of speech, each in an order of its own."""
    return [_until(_shuffled(seed + 1000 + i), 60 * minutes * WORDS_A_SECOND * 1.25 + 20) for i in range(count)]


def _until(source: Iterator[str], words: float) -> str:
    """Whole sentences; as near as that comes to a number of words."""
    out: list[str] = []
    spoken = 0
    while not out or spoken < words - 4:
        out.append(next(source))
        spoken += len(words_of(out[-1]))
    return " ".join(out)


# ------------------------------------------------------------------ what the product says of its own words
class Token(NamedTuple):
    """A written word of a text."""

    begin: int
    end: int
    words: tuple[str, ...]  # as they are compared; "well-known" has two


def tokens_of(text: str) -> list[Token]:
    found = (Token(m.start(), m.end(), tuple(words_of(m.group()))) for m in re.finditer(r"\S+", text))
    return [token for token in found if token.words]


class Committed(NamedTuple):
    """What of a text a stream of words says, up to the last word that it says.

    ``ends`` has an entry for each of ``expected``: the second at which it is told to end, NaN for words that are not
    told, or whose written word goes on.
    """

    expected: list[str]
    begins: list[float]
    ends: list[float]
    dropped: list[str]
    repeated: list[str]


def committed(text: str, words: Sequence[Any]) -> Committed:
    """``words``: with ``offset`` in the text and ``begin`` and ``end`` in seconds, in the order in which they came."""
    tokens = tokens_of(text)
    told: dict[int, Any] = {}
    repeated: list[str] = []
    for word in words:
        at = next((i for i, t in enumerate(tokens) if t.begin <= word.offset < t.end), None)
        if at is None or at in told:
            repeated.append(word.text)
        else:
            told[at] = word
    last = max(told, default=-1)
    expected, begins, ends, dropped = [], [], [], []
    for i, token in enumerate(tokens[: last + 1]):
        word = told.get(i)
        expected += token.words
        rest = len(token.words) - 1
        begins += [float("nan") if word is None else word.begin] * (rest + 1)
        ends += [float("nan")] * rest + [float("nan") if word is None else word.end]
        if word is None:
            dropped.append(text[token.begin: token.end])
    return Committed(expected, begins, ends, dropped, repeated)
