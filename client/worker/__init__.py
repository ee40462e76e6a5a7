"""The worker: claims a job, carries the study through the pipeline, stores the result."""
