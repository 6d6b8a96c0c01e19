#!/usr/bin/env bash
# safetensors: the same tensors with the same metadata do not give the same file.
# One would expect: saving twice gives equal bytes; tensors are sorted, so the format looks canonical.
# What happens: metadata with several keys is written in a new random order by each call, in one process too. The
#   tensors' bytes and one-key metadata are stable.
# It matters: a SHA-256 of the file as the identity of a checkpoint (caches, sidecars, signatures) changes for
#   nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 safetensors==0.8.0
venv/bin/python - <<'PY'
import hashlib
import json

import numpy as np
import safetensors
import safetensors.numpy

print("safetensors", safetensors.__version__)
tensors = {"w": np.arange(4, dtype=np.float32)}
notes = dict.fromkeys(("classes", "config", "license", "model", "step", "trained_on"), "x")


def digests(metadata):
    return {hashlib.sha256(safetensors.numpy.save(tensors, metadata)).hexdigest()[:12] for _ in range(50)}


six, one = digests(notes), digests({"model": "x"})
print("different files in 50 saves: six keys", len(six), " one key", len(one))
blob = safetensors.numpy.save(tensors, notes)
print("an order:", list(json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]))
assert len(one) == 1
assert len(six) > 1, "metadata is written in a fixed order now"
PY
