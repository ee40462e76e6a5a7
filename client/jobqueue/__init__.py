"""The queue of jobs that wait for a worker: a hint, never the truth."""
