"""Every name and time of the queue in Redis, in one place."""

from __future__ import annotations

from client.jobs import Priority

__all__ = (
    "COMMAND_TIMEOUT_S",
    "ENDS",
    "GROUP",
    "JOB_FIELD",
    "MAX_BLOCK_S",
    "SCAN_PAGE",
    "STREAMS",
)

STREAMS = {Priority.STAT: "jobs:stat", Priority.ROUTINE: "jobs:routine"}
"""One stream for each priority. Never trimmed: an entry leaves when its job is done with."""

GROUP = "workers"
"""The one consumer group; a consumer is a worker process."""

JOB_FIELD = "job"
"""The one field of an entry: the job's id."""

ENDS = "jobs:ended"
"""The channel (PUBLISH, SUBSCRIBE) on which workers tell the ids of jobs that have ended."""

COMMAND_TIMEOUT_S = 5.0
"""A command that takes longer means that the server is away (also on a half-open connection)."""

MAX_BLOCK_S = 2.0
"""One blocking read; well below the command timeout."""

SCAN_PAGE = 1000
"""Entries read at a time when the whole stream is looked through."""
