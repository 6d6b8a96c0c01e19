"""What lies on disk: an ONNX file with its contract, and the sidecar beside an engine. No torch here."""
