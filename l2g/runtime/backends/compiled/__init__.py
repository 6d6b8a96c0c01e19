"""The PyTorch model as one launch: reduced precision, fused deformable attention, a CUDA graph of the whole step."""
