"""Training works at all: a clip of four frames is learned by heart (the short version of benchmarks/overfit.py)."""

from benchmarks import overfit


def test_a_clip_is_learned_by_heart(capsys):
    assert overfit.main(["--iterations", "60", "--target", "80"]) == 0, capsys.readouterr().out


def test_a_target_that_is_missed_is_told():
    assert overfit.main(["--iterations", "0", "--target", "60"]) == 1
