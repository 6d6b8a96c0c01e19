"""Recorded rollouts -> ranges -> explicit Q/DQ ONNX, under an AP budget."""
