"""From a checkpoint to one stateless ONNX file that carries its contract and is proven equal to PyTorch."""
