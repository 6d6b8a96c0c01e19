"""Video in, results out: decoding, the overlapping pipeline, result files, the overlay."""
