"""What runs or compiles the graph: ONNX Runtime, OpenVINO, TensorRT, TensorRT for RTX."""
