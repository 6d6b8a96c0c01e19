"""The table of what wrong state costs: the right way differs from itself in nothing, a nudge in little."""

from benchmarks import state


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_nudge_moves_the_numbers_and_not_the_objects(capsys):
    assert state.main(["--only", "right", "nudged", "--videos", "2"]) == 0
    right, nudged = map(_cells, capsys.readouterr().out.splitlines()[2:])
    assert right[0] == "the right way"
    assert right[2:] == ["0.0e+00", "100.0", "1.000", "1.000"]
    assert nudged[0] == "state nudged by 1e-6"
    assert nudged[1] == right[1]
    assert 0 < float(nudged[2]) < 1e-2
    assert nudged[3] == "100.0"


def test_bad_input_is_one_line(capsys):
    assert state.main(["--model", "no_such_model"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
