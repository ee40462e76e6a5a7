"""From a checkpoint to a verified model in the repository that Triton serves."""
