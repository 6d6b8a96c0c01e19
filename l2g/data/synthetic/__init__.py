"""Synthetic video with exact annotation: drawn on demand, deterministic in (split, seed, index)."""
