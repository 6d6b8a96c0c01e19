#!/usr/bin/env bash
# lap: cost_limit of lapjv() is not a gate.
# One would expect: pairs dearer than the limit are forbidden, and as many of the others as possible are matched at
#   the least cost.
# What happens: the limit is the price of leaving a row and a column free. Two pairs of 0.4 under a limit of 0.5 are
#   given up for one pair of 0.1, since 0.1 + 0.5 is less than 0.4 + 0.4.
# It matters: trackers of the ByteTrack family associate with it: two tracks that pass each other become one match,
#   one lost track and one new identity, although both matches are within the limit. scipy with a gate keeps both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1 lap==0.5.13
venv/bin/python - <<'PY'
from importlib.metadata import version

import lap
import numpy as np
from scipy.optimize import linear_sum_assignment

print("lap", version("lap"), "scipy", version("scipy"))
LIMIT = 0.5
cost = np.array([[0.4, 0.1], [0.9, 0.4]])
_, column_of, _ = lap.lapjv(cost, extend_cost=True, cost_limit=LIMIT)
by_lap = [(row, int(column)) for row, column in enumerate(column_of) if column >= 0]
gated = np.where(cost > LIMIT, np.inf, cost)
by_scipy = [(int(row), int(column)) for row, column in zip(*linear_sum_assignment(gated), strict=True)]
print("costs", cost.tolist(), "limit", LIMIT)
print(
    "lap:",
    [(pair, cost[pair].item()) for pair in by_lap],
    " gate and scipy:",
    [(pair, cost[pair].item()) for pair in by_scipy],
)
assert by_scipy == [(0, 0), (1, 1)]
assert by_lap == [(0, 1)], "the limit is a gate now"
_, column_of, _ = lap.lapjv(cost, extend_cost=True, cost_limit=0.9)
assert column_of.tolist() == [0, 1]  # at a higher price both pairs stand
PY
