"""Whose turn it is, and how long a study waits before it is tried again."""

from __future__ import annotations

from client.jobqueue.base import PRIORITY_ORDER
from client.jobs import Priority

__all__ = ("LONGEST_RETRY_S", "STAT_IN_A_ROW", "Turns", "retry_delay_s")

STAT_IN_A_ROW = 8
"""So many STAT studies in a row, and then one routine study if one waits."""
LONGEST_RETRY_S = 20.0
"""No study waits longer than this for its next attempt: it is done within a minute of the end of
whatever made it fail."""
_FIRST_RETRY_S = 1.0


def retry_delay_s(attempt: int, chance: float) -> float:
    """Return how long to wait after a failed attempt: twice as long each time, and not in step.

    What failed for many studies at once, such as a model server that restarts, is not met by all
    of them again at the same moment.

    Args:
        attempt: The attempt that failed, from 1.
        chance: Drawn evenly from 0 to 1.

    Returns:
        Seconds, between half of the full delay and all of it.
    """
    full_s = min(LONGEST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(attempt - 1, 16))
    return full_s * (0.5 + 0.5 * chance)


class Turns:
    """The order in which places that take any study look at the queues."""

    def __init__(self) -> None:
        self._stat_in_a_row = 0

    @property
    def order(self) -> tuple[Priority, ...]:
        """Which queue to look at first."""
        if self._stat_in_a_row < STAT_IN_A_ROW:
            return PRIORITY_ORDER
        return tuple(reversed(PRIORITY_ORDER))

    def begun(self, priority: Priority) -> None:
        """Note what was taken."""
        self._stat_in_a_row = self._stat_in_a_row + 1 if priority is Priority.STAT else 0
