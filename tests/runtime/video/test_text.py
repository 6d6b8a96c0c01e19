"""Words as pictures: a space is seen, every script that the fonts have is drawn, nothing else is invented."""

import numpy as np
import pytest

from l2g.runtime.video import text
from l2g.runtime.video.overlay import _row
from l2g.runtime.video.text import LONGEST_NAME, drawable, text_mask

outline_fonts = pytest.mark.skipif(not text.OUTLINE_FONTS, reason="OpenCV 4 has stroke fonts of ASCII only")


def _same(one, other):
    return one.shape == other.shape and (one == other).all()


@pytest.mark.parametrize("size", [11, 15, 23, 45])
def test_the_space_before_the_score_is_wider_than_any_between_letters(size):
    """An id and a score that stand too near read as one number."""
    inked = np.flatnonzero(_row(("cat #3", "0.72"), size).any(axis=0))
    gaps = np.sort(np.diff(inked) - 1)[::-1]
    within = np.diff(np.flatnonzero(text_mask("0.72", size).any(axis=0))).max() - 1
    assert gaps[0] >= max(3, 0.4 * size)
    assert gaps[0] >= 2 * within


@outline_fonts
@pytest.mark.parametrize("name", ["Hündchen", "Кошка", "猫", "ねこ", "고양이", "γάτα", "قطة"])
def test_other_scripts_are_drawn_and_not_as_question_marks(name):
    assert drawable(name, "class 0") == name
    drawn, question = text_mask(name, 20), text_mask("?" * len(name), 20)
    assert drawn.any()
    assert not _same(drawn, question)
    if len(name) > 1:  # different letters, different shapes: no box in place of each
        assert not _same(text_mask(name[0], 20), text_mask(name[1], 20))


def test_without_outline_fonts_accents_are_left_away_and_other_scripts_are_numbers(monkeypatch):
    monkeypatch.setattr(text, "OUTLINE_FONTS", False)
    assert drawable("Hündchen", "class 3") == "Hundchen"
    assert drawable("Straße", "class 3") == "Strasse"
    assert drawable("猫", "class 3") == drawable("Кошка", "class 3") == "class 3"
    text_mask.cache_clear()
    assert text_mask("Hundchen", 20).any()
    text_mask.cache_clear()


def test_names_are_one_line_and_not_endless():
    assert drawable("traffic\n light\t", "class 0") == "traffic light"
    long = drawable("x" * 100, "class 0")
    assert len(long) == LONGEST_NAME
    assert long.endswith("..")


def test_letters_fit_their_mask():
    for size in (11, 15, 20, 45):
        words = "Ägjpqy|Å" if text.OUTLINE_FONTS else "Agjpqy|"
        mask, tall = text_mask(words, size), np.zeros((4 * size, 20 * size), np.uint8)
        text._put_text(tall, words, (size, 2 * size), size)
        assert mask.dtype == np.uint8
        assert mask.max() > 230
        assert mask.sum() == tall.sum(), "nothing is cut off"
        assert text_mask("WWWW", size).shape[1] > text_mask("ii", size).shape[1]
