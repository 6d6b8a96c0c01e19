"""The good inputs that are spoiled, and the words of the command that meets most of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from l2g.data.synthetic.dataset import write_synthetic
from l2g.modeling.family.maskdino import PUBLIC_NAMES
from tests.modeling.small import small_model
from tests.runtime.clips import moving_scenes, write_clip

CONFIG = """model: l2g_tiny
seed: 1
precision: fp32
ema: 0.5
clip_norm: 0.1
data:
  source: synthetic
  reverse: 0.1
loss:
  num_points: 16
phases:
- kind: image
  iterations: 1
  batch_size: 1
  lr: 1e-3
  warmup: 1
  schedule: cosine
"""


@dataclass(frozen=True)
class Originals:
    """The good inputs that are spoiled. folder: where all of them lie; nothing is changed there."""

    folder: Path
    clip: Path
    data: Path
    results: Path
    public: Path

    @classmethod
    def made(cls, folder: Path) -> Originals:
        clip = write_clip(folder / "clip.mp4", moving_scenes(6))
        data = write_synthetic(folder / "data", "val", seed=3, videos=2, frames=3, size=(64, 96))
        truth = json.loads((Path(data) / "instances.json").read_text())
        results = [
            {
                "video_id": found["video_id"],
                "category_id": found["category_id"],
                "score": 0.5 + index / 100,
                "segmentations": found["segmentations"],
            }
            for index, found in enumerate(truth["annotations"])
        ]
        path = folder / "results.json"
        path.write_text(json.dumps(results))
        public = folder / "model.pth"
        # What `l2g run` takes a public model for: no aligner, eight heads.
        tensors = small_model(num_heads=8).state_dict()
        mine = {_public_name(name): value for name, value in tensors.items() if not name.startswith("aligner.")}
        torch.save({"model": mine}, public)
        return cls(folder, clip, Path(data), path, public)


def _public_name(name: str) -> str:
    """Ours as the public checkpoints have it, where they have it."""
    pairs = ((theirs, ours) for theirs, ours in PUBLIC_NAMES if ours and name.startswith(ours))
    return next((theirs + name[len(ours) :] for theirs, ours in pairs), name)


def run_words(model: Path, source: Path, work: Path) -> list[str]:
    return ["run", "--model", str(model), "--input", str(source), "--output", str(work / "out"), "--end=0.5", "--quiet"]
