#!/usr/bin/env bash
# PyAV: asking a frame for its side data fails on a JPEG with EXIF.
# One would expect: iterating gives the entries, and side_data.get("DISPLAYMATRIX") gives that one or None.
# What happens: FFmpeg 8 attaches EXIF as a type that this PyAV has no name for; both ways raise ValueError, also for
#   who only wants the rotation. frame.rotation works. Without EXIF all is well.
# It matters: every photo of a phone or a camera has EXIF, and code that reads the rotation this way is fine on all
#   test pictures.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 av==18.1.0 pillow==13.0.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import av
import numpy as np
from PIL import Image

print("av", version("av"), "FFmpeg", av.ffmpeg_version_info)
picture = Image.fromarray(np.zeros((48, 64, 3), np.uint8))
exif = Image.Exif()
exif[0x0112] = 6  # turned by a quarter
picture.save("camera.jpg", exif=exif)
picture.save("plain.jpg")


def ask(path, question):
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        try:
            return question(frame)
        except ValueError as error:
            return f"ValueError: {error}"


for name, question in (
    ("all entries", lambda frame: [entry.type for entry in frame.side_data]),
    ("display matrix", lambda frame: frame.side_data.get("DISPLAYMATRIX")),
):
    plain, camera = ask("plain.jpg", question), ask("camera.jpg", question)
    print(f"{name}: without EXIF {plain}; with EXIF {camera}")
    assert not plain
    assert "is not a valid Type" in str(camera)
assert abs(ask("camera.jpg", lambda frame: frame.rotation)) == 90
PY
