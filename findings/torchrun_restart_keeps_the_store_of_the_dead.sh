#!/usr/bin/env bash
# torchrun restarts its processes with the store of those that died.
# One would expect: after a restart the processes meet in an empty store, as they do at the first start; the comment
#   beside the code in PyTorch says that every retry gets a new one.
# What happens: with the c10d rendezvous (--standalone too) the launcher keeps one store, and hands it to every start. A
#   key that a dead process wrote is still there: gloo reads its address, and is refused or waits for 30 minutes. With
#   TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in front every start has a store of its own.
# It matters: training that is to survive a lost process hangs at random in init_process_group, on a busy machine often.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.13.0
cat > worker.py <<'PY'
import os
import sys
import torch.distributed as distributed

store, rank, world = next(distributed.rendezvous("env://"))
restarts = os.environ["TORCHELASTIC_RESTART_COUNT"]
if store.check(["address"]):
    print(f"start {restarts}: found the address that start {store.get('address').decode()} wrote", flush=True)
else:
    print(f"start {restarts}: no address yet", flush=True)
    store.set("address", restarts)
sys.exit(1 if restarts == "0" else 0)
PY
starts() { # the variable's value
  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=$1 venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 1 \
    --max-restarts 1 worker.py 2> errors.txt
}
echo "torch $(venv/bin/python -c 'import torch; print(torch.__version__)')"
shared=$(starts 0)
own=$(starts 1)
printf 'shared store:\n%s\na store for every start:\n%s\n' "$shared" "$own"
grep -q "start 1: found the address that start 0 wrote" <<< "$shared"
grep -q "start 1: no address yet" <<< "$own"
