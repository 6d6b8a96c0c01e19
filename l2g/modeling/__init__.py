"""The Local2Global model: Mask DINO's parts with an aligner in between, one frame at a time."""
