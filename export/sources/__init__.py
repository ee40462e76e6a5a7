"""What a network is made from: factory and state dict, MONAI bundle, nnU-Net folder, ONNX file."""
