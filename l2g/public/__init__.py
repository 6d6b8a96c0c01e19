"""Public checkpoints: which there are, where they lie, and how they get here."""
