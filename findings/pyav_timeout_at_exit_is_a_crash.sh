#!/usr/bin/env bash
# PyAV: a time-out makes a process that ends while a daemon thread waits for a camera end by a segmentation fault.
# One would expect: the thread waits inside FFmpeg, without Python, and dies with the process as daemon threads do;
#   a time-out is a number that FFmpeg compares.
# What happens: with timeout= FFmpeg calls PyAV ten times a second while it waits, which takes the interpreter's lock
#   to look at the time, also after Python has taken itself down. Where the rest of the exit takes longer than that
#   (drivers, runtimes of models) many processes end by signal 11; without a time-out all end with 0.
# It matters: a service that reads cameras and is stopped while one of them is silent crashes now and then, after
#   everything was done, and is reported as failed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check av==18.1.0
cat > reader.py <<'PY'
import ctypes
import sys
import threading
import time

import av

address, timeout, exit_seconds = sys.argv[1], float(sys.argv[2]) or None, int(sys.argv[3])
threading.Thread(target=av.open, args=(address,), kwargs={"timeout": timeout}, daemon=True).start()
time.sleep(0.5)
if exit_seconds:  # an exit handler of a C library that takes its time
    libc = ctypes.CDLL(None)
    libc.__cxa_atexit(ctypes.cast(libc.sleep, ctypes.c_void_p), ctypes.c_void_p(exit_seconds), None)
PY
venv/bin/python - <<'PY'
import socket
import subprocess
from collections import Counter
from importlib.metadata import version

print("av", version("av"))
found = {}
with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
    address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
    for timeout in (30, 0):
        command = ["venv/bin/python", "reader.py", address, str(timeout), "1"]
        # Whether a look at the time falls into the short while in which Python still stops such threads is chance.
        processes = [subprocess.Popen(command) for _ in range(16)]
        found[timeout] = Counter(process.wait() for process in processes)
        print(f"time-out {f'{timeout} s' if timeout else 'none'}: 16 processes end with {dict(found[timeout])}")
assert found[30][-11] > 0
assert found[0] == {0: 16}
PY
