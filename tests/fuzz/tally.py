"""Counts of a fuzzing process in a memory-mapped file, so that they outlive a crash of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.errors import ClientError, RefusalCode

__all__ = ("ACCEPTED", "ANSWERS", "HANG_S", "Tally")

ACCEPTED = "ACCEPTED"
"""The answer to input that is right."""


def _subclasses(kind: type[ClientError]) -> list[str]:
    found = [kind.__name__]
    for each in kind.__subclasses__():
        found += _subclasses(each)
    return found


HANG_S = 10.0
"""Processor time that one input may take, instrumentation included."""
ANSWERS = (ACCEPTED, *(code.value for code in RefusalCode), *sorted(_subclasses(ClientError)))
"""Every way in which input may be answered; anything else is a finding."""


class Tally:
    """How the inputs of one process were answered.

    Args:
        path: Where it is kept; a new file begins with zeros.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            np.zeros(len(ANSWERS) + 2, np.uint64).tofile(path)
        self._cells = np.memmap(path, np.uint64, "r+")
        self._seen: set[int] = set()

    def count(self, answer: str, cpu_ns: int, data: bytes) -> None:
        """Count one input.

        Raises:
            ValueError: The answer is none of ``ANSWERS``.
        """
        self._cells[ANSWERS.index(answer)] += np.uint64(1)
        self._cells[-2] = max(int(self._cells[-2]), cpu_ns)
        digest = hash(data)
        if digest not in self._seen:
            self._seen.add(digest)
            self._cells[-1] += np.uint64(1)

    @property
    def answers(self) -> dict[str, int]:
        """How often each answer was given."""
        counts = zip(ANSWERS, self._cells[:-2], strict=True)
        return {answer: int(count) for answer, count in counts if count}

    @property
    def slowest_s(self) -> float:
        """The most processor time that an input took."""
        return float(self._cells[-2]) / 1e9

    @property
    def distinct(self) -> int:
        """How many different inputs there were."""
        return int(self._cells[-1])
