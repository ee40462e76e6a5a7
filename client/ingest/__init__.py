"""Studies in and results out over gRPC: the bundle, the gateway and the sender."""
