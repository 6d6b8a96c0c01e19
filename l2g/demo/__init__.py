"""The demo's clip and what is in it: 90 drawn frames, 640 x 384, made by examples/demo/make_clip.py."""

from pathlib import Path

CLIP = Path(__file__).parent / "clip.mp4"
ANNOTATION = Path(__file__).parent / "annotation.json"
