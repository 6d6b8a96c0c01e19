#!/usr/bin/env bash
# l2g gpu-check on a machine without a network, beside the PyTorch that it has:
#
#     benchmarks/gpu_check.sh OUTPUT WHEELS [OPTION...]
#
# OUTPUT: the folder of the check, perhaps with what --prepare made. WHEELS: a folder of wheels, as `pip download` fills
# it; "-" takes the environment as it is. Options go to l2g gpu-check. Exit code: that of l2g gpu-check; 2 where
# something is missing.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
output="$1" wheels="$2"
shift 2
python="${PYTHON:-python3}"
if [ "$wheels" != "-" ]; then
  if [ ! -d "$wheels" ]; then
    echo "error: $wheels: no such folder; fill one with: pip download -d $wheels ..." >&2
    exit 2
  fi
  # Beside what the machine has, which stays as it is: its PyTorch is the one that fits its driver.
  beside="$(mktemp -d)"
  trap 'rm -rf "$beside"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --disable-pip-version-check --target "$beside" "$wheels"/*.whl
  PYTHONPATH="$beside${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m l2g gpu-check --output "$output" "$@"
