"""The two steps of a model as classes for Triton's Python backend (the cpu profile)."""
