"""How clip.mp4 and annotation.json were made: 90 frames of the synthetic split "demo", whose seed no other split has.

python examples/demo/make_clip.py --output l2g/demo
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from l2g.data.synthetic.dataset import write_synthetic
from l2g.data.youtube_vis import load_youtube_vis
from l2g.runtime.video.writer import VideoWriter

FRAMES, SIZE, RATE = 90, (384, 640), 15.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        drawn = write_synthetic(Path(folder) / "demo", "demo", videos=1, frames=FRAMES, size=SIZE, picture_format="png")
        video = load_youtube_vis(drawn).videos[0]
        with VideoWriter(output / "clip.mp4", *SIZE, RATE) as writer:
            for t in range(video.length):
                writer.write(video.frame(t), t / RATE)
        shutil.copyfile(drawn / "instances.json", output / "annotation.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
