"""What lies on disk: an ONNX file with its contract, and the sidecar beside an engine. No torch here."""

# Here, so that whoever only tells files apart need not load what reads them.
ENGINE_SUFFIX = ".engine"
# What runs an exported graph, the default first.
GRAPH_LIBRARIES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
