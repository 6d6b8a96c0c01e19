"""Many videos on many workers: each video's results exactly once, whatever dies on the way."""
