#!/usr/bin/env bash
# A frame made from a NumPy array without a copy has two rows less where its height is no multiple of four.
# One would expect: VideoFrame.from_numpy_buffer(array, format="yuv420p") is from_ndarray without the copy, the same
#   picture for every even height; heights of 90 or 1078 rows are ordinary, and 4:2:0 asks for even ones alone.
# What happens: it takes the height to be (rows of the array) // 6 * 4. Of 90 rows (an array of 135) it makes 88, and
#   reads the chroma from where it supposes it: the last rows of the luma. Nothing is raised.
# It matters: the copy is the plain thing to save before an encoder. The tests with 720p pass; videos of other heights
#   lose their last rows and have false colours.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 av==18.1.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import av
import numpy as np

print("av", version("av"))


def frames(height, width=128):
    planes = np.full((height * 3 // 2, width), 128, np.uint8)  # neutral chroma
    planes[:height] = 235  # white
    return [make(planes, format="yuv420p") for make in (av.VideoFrame.from_ndarray, av.VideoFrame.from_numpy_buffer)]


def colours(frame):
    return np.unique(frame.to_ndarray(format="rgb24").reshape(-1, 3), axis=0).tolist()


for height in (88, 90):
    copied, borrowed = frames(height)
    print(f"height {height}: copied {copied.height} rows, borrowed {borrowed.height} rows")
    print(f"  colours copied {colours(copied)[:3]}, borrowed {colours(borrowed)[:3]}")
whole, short = frames(88)[1], frames(90)[1]
assert whole.height == 88 and colours(whole) == [[255, 255, 255]]
assert short.height == 88 and colours(short) != [[255, 255, 255]]
PY
