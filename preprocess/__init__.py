"""What a model needs done to pixels: its description, the plan for a series, the pipelines."""
