#!/usr/bin/env bash
# PyAV: a label map in lossless H.264, pixel format gray, is read back with other labels.
# One would expect: qp=0 is lossless and gray needs no colour matrix, so every label returns.
# What happens: the luma plane is exact, but the stream is decoded as yuv420p of unknown range, and to_ndarray("gray")
#   stretches 16..235 to 0..255: labels up to 16 all become 0, those from 235 on 255. FFV1 returns all; H.264 too when
#   color_range=pc is said on writing.
# It matters: masks and class ids of a whole video stored in one small file, the first sixteen classes being
#   background.
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

print("av", version("av"), "FFmpeg", av.ffmpeg_version_info)
labels = np.arange(256, dtype=np.uint8)[None].repeat(64, 0)


def round_trip(codec, **options):
    with av.open("labels.mkv", "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 256, 64, "gray"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(labels, format="gray")))
        container.mux(stream.encode())
    with av.open("labels.mkv") as container:
        frame = next(container.decode(video=0))
        plane = np.frombuffer(frame.planes[0], np.uint8).reshape(64, -1)[:, :256]
        return frame.format.name, frame.to_ndarray(format="gray"), plane


for name, codec, options, kept in (
    ("FFV1", "ffv1", {}, True),
    ("H.264, qp=0", "libx264", {"qp": "0"}, False),
    ("H.264, qp=0, color_range=pc", "libx264", {"qp": "0", "color_range": "pc"}, True),
):
    kind, got, plane = round_trip(codec, **options)
    changed, some = (got[0] != labels[0]).sum(), got[0, [1, 8, 16, 100]]
    print(f"{name}: decoded as {kind}, labels changed {changed}, labels 1, 8, 16, 100 -> {some}")
    assert np.array_equal(plane, labels)
    assert np.array_equal(got, labels) == kept
    if not kept:
        assert not got[0, :17].any()
PY
