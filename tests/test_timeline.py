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


def test_the_plan_beyond_the_chunk_makes_the_estimate_better(units):
    """What is foreseen of a word counts; what is not is estimated, and nothing else changes."""
    places = [0, 0, 0, 0, 0, 1, 1, 1]
    plain, foreseeing = (Timeline(step=10, carry=(0, 0)) for _ in range(2))
    without = plain.advance(0, places, units.__getitem__)
    found = foreseeing.advance(0, places, units.__getitem__, ahead=[1, 1, 2, 2, 2, 2, 2, 3])
    assert [(w.begin_pts, w.end_pts) for w in found.words] == [(70, 70 + 50 + 50)]
    assert (found.visemes, found.reached) == (without.visemes, without.reached) and plain.carry == foreseeing.carry
    other = Timeline(step=10, carry=(0, 0)).advance(0, places, units.__getitem__, ahead=[1, 2])
    assert [(w.begin_pts, w.end_pts) for w in other.words] == [(70, 70 + 40 + 40)]  # "ay" is longer than it is seen
    # A word that begins behind the chunk is not told yet.
    later = Timeline(step=10, carry=(0, 0)).advance(0, [0] * 8, units.__getitem__, ahead=[0, 1, 1, 2])
    assert later.words == () and later.reached == ()
