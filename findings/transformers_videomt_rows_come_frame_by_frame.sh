#!/usr/bin/env bash
# transformers, VidEoMT: rows of a batch of clips stand frame by frame, not clip by clip.
# One would expect: clips (2, 3, ...) give rows of clip 0, frames 0 to 2, then of clip 1, so view(2, 3, ...) splits
#   them.
# What happens: rows are frame 0 of all clips, then frame 1 of all clips; shapes cannot tell, and with one clip both
#   orders are one.
# It matters: split the natural way, tracks of one video are drawn into another; a test with a batch of one passes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scipy==1.17.1 \
  transformers==5.24.0
venv/bin/python - <<'PY'
import logging

import torch
import transformers
from transformers import VideomtConfig, VideomtForUniversalSegmentation

logging.disable(logging.WARNING)
print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
config = VideomtConfig(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=64, num_blocks=1, num_queries=5, num_labels=3
)
model = VideomtForUniversalSegmentation(config).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
CLIPS, FRAMES = 2, 3
clips = torch.randn(CLIPS, FRAMES, 3, 64, 64)
with torch.no_grad():
    rows = model(pixel_values_videos=clips).class_queries_logits
    alone = torch.stack([model(pixel_values_videos=clip[None]).class_queries_logits for clip in clips])
by_clip = (rows.view(CLIPS, FRAMES, 5, 4) - alone).abs().max().item()
by_frame = (rows.view(FRAMES, CLIPS, 5, 4).transpose(0, 1) - alone).abs().max().item()
print(f"rows {tuple(rows.shape)}, against each clip alone:")
print(f"read clip by clip {by_clip:.3f} off, read frame by frame {by_frame:.1e} off")
assert by_clip > 0.1, "rows come clip by clip now"
assert by_frame < 1e-4
PY
