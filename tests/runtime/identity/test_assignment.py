"""The solver is SciPy's own, found without the package around it."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from l2g.runtime.identity.assignment import best_assignment


def _matrices():
    rng = np.random.default_rng(5)
    yield from (rng.random((n, n)) for n in (1, 2, 7, 60, 300))
    # Ties: which of several equal assignments it is must be the same one.
    yield from (rng.integers(0, 3, (n, n)).astype(float) for n in (3, 20, 100))
    yield np.zeros((40, 40))
    yield rng.random((50, 50)).astype(np.float32)


def test_it_gives_what_scipy_optimize_gives():
    for worth in _matrices():
        np.testing.assert_array_equal(best_assignment(worth), linear_sum_assignment(worth, maximize=True)[1])
    with pytest.raises(ValueError, match="invalid numeric"):
        best_assignment(np.full((3, 3), np.nan))


CODE = """
import sys
import numpy as np
{before}
from l2g.runtime.identity.assignment import best_assignment
print(best_assignment(np.array([[1.0, 5, 0], [4, 6, 0], [0, 0, 1]])).tolist(), "scipy.optimize" in sys.modules)
import scipy.optimize
print(scipy.optimize.linear_sum_assignment(np.eye(2), maximize=True)[1].tolist())
"""

ELSEWHERE = "import importlib.util; importlib.util.find_spec = lambda *_: None"


@pytest.mark.parametrize(("before", "loaded"), [("", False), ("import scipy.optimize", True), (ELSEWHERE, True)])
def test_it_loads_no_more_than_the_solver_and_bears_the_rest(before, loaded):
    """The sum of 5 and 4 beats that of 1 and 6; `scipy.optimize` comes before, after, or for want of the file."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(before=before)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == [f"[1, 0, 2] {loaded}", "[0, 1]"], done.stderr
