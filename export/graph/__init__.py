"""From a network to the ONNX graph that every engine is made from."""
