"""The build as a chain of stages, and the comparison that ends it."""
