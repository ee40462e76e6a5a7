"""What Triton serves: configurations, the staged model, its publication."""
