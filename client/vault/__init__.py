"""A key for each patient, that can be destroyed; and the rotation of every key."""
