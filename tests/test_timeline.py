"""Words and visemes from half-frames, against what a person would write down."""
from __future__ import annotations

import pytest

from streamchar_rt.orchestrator.units import END, PAUSE_SHORT, PHONE_ID
from streamchar_rt.orchestrator.visemes import PHONE_TO_VISEME, VISEMES
from streamchar_rt.timeline import Reached, SpokenUnit, Timeline, WrittenWord, viseme_of


def phone(name, word, number=0):
    return SpokenUnit(PHONE_ID[name], 1, word, number)


@pytest.fixture
def units():
    """END, "hi" (hh ay), a pause, "I" (ay), END."""
    hi, i = WrittenWord("Hi", 0, 2, 2), WrittenWord("I", 4, 5, 1)
    return [
        SpokenUnit(END, 0), phone("hh", hi), phone("ay", hi, 1), SpokenUnit(PAUSE_SHORT, 1), phone("ay", i),
        SpokenUnit(END, 1),
    ]  # fmt: skip


def test_a_chunk_by_hand(units):
    timeline = Timeline(step=10, carry=(0, 0))
    result = timeline.advance(1000, [0, 1, 1, 2, 3, 3, 4, 5], units.__getitem__)
    # The two half-frames that were carried come first; the plan's last two sound in the next chunk.
    assert [(w.text, w.begin_pts, w.end_pts) for w in result.words] == [("Hi", 1030, 1060)]
    assert result.reached == (Reached(1, 1030), Reached(2, 1050), Reached(3, 1060))
    shapes = [(VISEMES[v.id], v.begin_pts, v.end_pts) for v in result.visemes]
    assert shapes == [("sil", 1000, 1030), ("kk", 1030, 1050), ("aa", 1050, 1060), ("sil", 1060, 1080)]
    assert timeline.carry == (4, 5)
    after = timeline.advance(1080, [5] * 8, units.__getitem__)
    assert [(w.text, w.text_offset, w.begin_pts, w.end_pts) for w in after.words] == [("I", 4, 1080, 1090)]
    assert after.reached == (Reached(4, 1080), Reached(5, 1090))


def test_the_end_of_a_word_that_goes_on_is_estimated(units):
    timeline = Timeline(step=10, carry=(0, 0))
    result = timeline.advance(0, [0, 0, 0, 0, 0, 1, 1, 1], units.__getitem__)
    (word,) = result.words
    # Three half-frames of "hh" are known, one is to be expected (four is usual), and all four of "ay".
    assert (word.begin_pts, word.end_pts) == (70, 70 + 40 + 40)
    assert timeline.advance(80, [1, 2, 2, 2, 2, 3, 3, 3], units.__getitem__).words == ()


def test_every_phone_has_a_viseme():
    for name, unit in PHONE_ID.items():
        assert viseme_of(unit) == PHONE_TO_VISEME[name] > 0
    assert viseme_of(END) == viseme_of(PAUSE_SHORT) == 0
