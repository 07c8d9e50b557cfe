"""What the shipped model says is understood by an independent recogniser."""
import numpy as np
import pytest

pytest.importorskip("pocketsphinx", reason="the recogniser is not installed: pip install '.[test]'")

from streamchar_rt import Engine  # noqa: E402
from tools.evaluate.recognise import Recogniser  # noqa: E402
from tools.evaluate.wer import evaluate  # noqa: E402
from tools.studio.sentences import evaluation_sentences  # noqa: E402

BAR = 0.45          # share of words misheard over the sentences below


@pytest.fixture(scope="module")
def spoken() -> dict[str, np.ndarray]:
    """Ten sentences that no training text holds, in the voice rms."""
    out = {}
    with Engine.load("mini") as engine:
        character = engine.character(engine.characters()[0], voice="rms")
        for text in evaluation_sentences()[:10]:
            with engine.session(character) as session:
                session.say(text)
                out[text] = np.concatenate([chunk.audio.copy() for chunk in session.turn()])
    return out


def test_sentences_are_understood(spoken):
    result = evaluate(spoken.__getitem__, list(spoken), recogniser=Recogniser())
    print({u["reference"]: u["hypothesis"] for u in result["utterances"]})
    assert result["wer"] < BAR


def test_the_words_matter(spoken):
    """The judge can tell: against another sentence's text the same speech fails."""
    texts = list(spoken)
    exchanged = dict(zip(texts, [spoken[t] for t in texts[1:] + texts[:1]]))
    assert evaluate(exchanged.__getitem__, texts, recogniser=Recogniser())["wer"] > 0.85
