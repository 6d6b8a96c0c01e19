#!/usr/bin/env bash
# PyAV: a packet after one that the disk refused ends the process, where the header had not been written yet.
# One would expect: a writer on a full disk raises OSError for each packet, as it does once the file has begun, so that
#   a loop that catches it, or a flush in a `finally`, is safe.
# What happens: the first packet makes the muxer write its header; where the disk refuses that, mux() raises OSError as
#   it should, and the next mux() is a segmentation fault: the header counts as written and there is none.
# It matters: a service with several streams catches the error of one and flushes its encoder; all streams die with it,
#   and the files of the others stay without their ends. After a refused packet a container may only be closed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 av==18.1.0
cat >write.py <<'PY'
import sys

import av
import numpy as np

# What is muxed goes to the disk at once.
options = {"movflags": "+frag_every_frame+empty_moov", "flush_packets": "1"}
container = av.open("/dev/full", "w", format="mp4", options=options)
stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "tune": "zerolatency"})
stream.width = stream.height = 64
stream.pix_fmt = "yuv420p"
refused = 0
for number in range(3):
    frame = av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), format="yuv420p")
    frame.pts = number
    for packet in stream.encode(frame):
        try:
            container.mux(packet)
        except OSError as error:
            refused += 1
            print(f"packet {number}: {error}", flush=True)
            if sys.argv[1] == "stop":
                container.close()
                sys.exit(0)
sys.exit(1 if refused else 2)
PY
venv/bin/python -c 'from importlib.metadata import version; print("av", version("av"))'
stop=0 && venv/bin/python write.py stop || stop=$?
on=0 && venv/bin/python write.py on || on=$?
echo "closed after the first refusal: exit code $stop; one more packet: exit code $on"
test "$stop" -eq 0
test "$on" -eq 139
