"""Data sets of annotated video: readers, a deterministic generator, clip sampling. Nothing here imports torch."""
