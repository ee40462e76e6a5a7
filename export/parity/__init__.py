"""Whether every engine still gives the answers of the float32 network."""
