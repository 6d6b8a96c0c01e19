"""Commands of training, data and metrics."""
