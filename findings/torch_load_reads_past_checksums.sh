#!/usr/bin/env bash
# PyTorch: torch.load takes a file in which bits have flipped, although the file says that they have.
# One would expect: torch.save writes a ZIP archive with a CRC-32 of each part (set_crc32_options, on by default), so a
#   damaged one is refused when it is loaded, as zipfile and unzip do.
# What happens: torch.load compares no checksum and gives the changed weights, without a warning. Only damage to the
#   archive's directory or to the pickle in it is seen.
# It matters: a checkpoint that was damaged on a disk or on the way runs, a little or a lot worse. ZipFile.testzip()
#   finds it in less time than loading takes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
venv/bin/python - <<'PY'
import zipfile

import torch

print("torch", torch.__version__)
weights = {"a": torch.ones(1000), "b": torch.zeros(1000)}
torch.save(weights, "whole.pth")
content = bytearray(open("whole.pth", "rb").read())
content[content.index(weights["a"].numpy().tobytes()) + 403] ^= 0x20  # a bit of the exponent of one number
open("flipped.pth", "wb").write(content)
found = torch.load("flipped.pth", weights_only=True)["a"]
print("one of a thousand ones is now", found[100].item())
assert (found != 1).sum() == 1, "the damage is seen now"
assert zipfile.ZipFile("whole.pth").testzip() is None
bad = zipfile.ZipFile("flipped.pth").testzip()
print("zipfile names the part:", bad)
assert bad is not None
PY
