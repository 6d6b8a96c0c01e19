#!/usr/bin/env bash
# PyAV: the same call gives other colours from version 17 on.
# One would expect: to_ndarray("rgb24") follows the colour tags of the file, in every version; or in none.
# What happens: up to 16.1 the tags are passed over and everything is read as BT.601; from 17 on matrix and range of the
#   file are followed. Red of a BT.709 file, the usual HD video, moves by more than 10 levels; untagged video does not.
# It matters: data decoded for training with one version and for use with another differ in colour, with no line of code
#   changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 av==18.1.0
venv/bin/pip install --quiet --disable-pip-version-check --no-deps --target old av==16.1.0
cat > decode.py <<'PY'
import json
import sys

import av

with av.open(sys.argv[1]) as container:
    pixel = next(container.decode(video=0)).to_ndarray(format="rgb24")[32, 32]
print(json.dumps([av.__version__, pixel.tolist()]))
PY
venv/bin/python - <<'PY'
import json
import os
import subprocess
import sys

import av
import numpy as np

COLOUR = (200, 40, 40)


def write(path, red, blue, matrix, full):
    """One colour, converted by the matrix's own weights, stored without loss and tagged."""
    r, g, b = (c / 255 for c in COLOUR)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    scale, offset, chroma = (255, 0, 255) if full else (219, 16, 224)
    planes = [round(offset + scale * y), round(128 + chroma * cb), round(128 + chroma * cr)]
    with av.open(path, "w") as container:
        options = {"qp": "0", "color_range": "pc" if full else "tv"}
        stream = container.add_stream("libx264", rate=25, options=options | ({"colorspace": matrix} if matrix else {}))
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv444p"
        stacked = np.repeat(np.array(planes, np.uint8), 64 * 64).reshape(3, 64, 64)
        frame = av.VideoFrame.from_ndarray(stacked, format="yuv444p")
        frame.color_range = 2 if full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decode(path, old):
    environment = os.environ | ({"PYTHONPATH": "old"} if old else {})
    answer = subprocess.run([sys.executable, "decode.py", path], env=environment, check=True, capture_output=True)
    version, pixel = json.loads(answer.stdout)
    return version, pixel, max(abs(a - b) for a, b in zip(pixel, COLOUR, strict=True))


for name, red, blue, matrix, full, moves in (
    ("untagged, BT.601", 0.299, 0.114, None, False, False),
    ("BT.709", 0.2126, 0.0722, "bt709", False, True),
    ("BT.709, full range", 0.2126, 0.0722, "bt709", True, True),
):
    write("colour.mkv", red, blue, matrix, full)
    for old in (True, False):
        version, pixel, far = decode("colour.mkv", old)
        print(f"{name}, PyAV {version}: {pixel} for {list(COLOUR)}, off by {far}")
        assert far > 10 if old and moves else far <= 3
PY
