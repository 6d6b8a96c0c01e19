"""A model small enough to train in a test, and the changes that make a config train it."""

import json

SMALL = {
    "backbone": {"blocks": (1, 1, 1, 1), "stem_channels": 8, "width": 4, "out_channels": 16},
    "encoder": {"layers": 1, "ffn_dim": 32, "mask_dim": 32},
    "decoder": {"layers": 2, "ffn_dim": 32},
    "aligner": {"layers": 1, "ffn_dim": 32},
    "hidden_dim": 32,
    "num_queries": 10,
    "num_heads": 4,
}
CANVAS = [64, 96]


def small(**changes):
    """Command-line changes that shrink a config to something a test can run."""
    overrides = json.dumps({**SMALL, "num_classes": 8, **changes})
    return ["model=l2g_tiny", f"overrides={overrides}", "init=null", f"data.augment.canvas={CANVAS}", "data.workers=0"]
