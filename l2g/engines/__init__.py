"""From an ONNX file to an audited, verified engine. No torch here."""
