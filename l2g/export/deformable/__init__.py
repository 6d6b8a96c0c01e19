"""Deformable attention in ONNX: gather, GridSample, or TensorRT's plugin."""
