"""The alternatives a user would pick, each serving the same work as our ensemble."""
