"""TensorRT and TensorRT-RTX: an engine on a GPU, its state kept there. No torch here."""
