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
  # What the machine has stays visible: its PyTorch is the one that fits its driver.
  environment="$(mktemp -d)"
  trap 'rm -rf "$environment"' EXIT
  "$python" -m venv --system-site-packages "$environment"
  python="$environment/bin/python"
  "$python" -m pip install --quiet --no-index --no-deps --disable-pip-version-check "$wheels"/*.whl
fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m l2g gpu-check --output "$output" "$@"
