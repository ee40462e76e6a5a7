"""What a load generator notes while it sends, line by line, and the studies it adds up to.

sent, acknowledged, ended ──JSON lines, one file for each generator──▶ Study, by its number
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadtest.traffic.arrivals import Arrival

__all__ = ("Generator", "Journal", "Study", "beginning", "read_journals")


@dataclass(frozen=True)
class Generator:
    """What one generator's own work took.

    Attributes:
        cpu_s: Its CPU seconds.
        seconds: How long it ran.
        most_in_flight: Studies that it had under way at one time.
    """

    cpu_s: float
    seconds: float
    most_in_flight: int


@dataclass(frozen=True)
class Study:
    """What became of one study; times are seconds since the load began.

    Attributes:
        arrival: When and what it was due.
        sent_s: When its sender began with it; None: never.
        acknowledged_s: When the gateway said that it is safe; None: never.
        ended_s: When its result was decrypted, or its refusal told; None: never.
        outcome: done, rejected, failed, lost or error; "" while it is under way.
        code: Why, of what is not done.
        study_bytes: Length of its files.
        job_id: Of its job, "" without one.
        upload_id: Its sender's id.
    """

    arrival: Arrival
    sent_s: float | None = None
    acknowledged_s: float | None = None
    ended_s: float | None = None
    outcome: str = ""
    code: str = ""
    study_bytes: int = 0
    job_id: str = ""
    upload_id: str = ""

    @property
    def turnaround_s(self) -> float | None:
        """Seconds from when it was due, not from when it was sent; None before its end."""
        return None if self.ended_s is None else self.ended_s - self.arrival.at_s

    @property
    def late_s(self) -> float:
        """Seconds that the generator itself was late."""
        return 0.0 if self.sent_s is None else max(0.0, self.sent_s - self.arrival.at_s)

    @property
    def as_expected(self) -> bool:
        """Whether it ended as it should."""
        code = "" if self.outcome == "done" else "NO_MODEL"
        return self.outcome == self.arrival.expected and self.code == code


class Journal:
    """One generator's file; a context manager. Every line is with the system once it is noted.

    Args:
        path: The file.
        began: ``time.time()`` when the load began.
    """

    def __init__(self, path: Path, began: float) -> None:
        self._path = path
        self._began = began
        self._offset = time.monotonic() - (time.time() - began)
        self._cpu_s = time.process_time()
        self._in_flight = 0
        self._most = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="utf-8", buffering=1)
        self._write(began=self._began)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        cpu_s = round(time.process_time() - self._cpu_s, 3)
        self._write(cpu_s=cpu_s, seconds=self.now_s(), most_in_flight=self._most)
        self._file.close()

    def now_s(self) -> float:
        """Seconds since the load began."""
        return round(time.monotonic() - self._offset, 3)

    def sent(self, number: int, upload_id: str = "") -> None:
        """Note that a sender begins with a study, and under which id it uploads it."""
        self._in_flight += 1
        self._most = max(self._most, self._in_flight)
        self._write(number=number, sent_s=self.now_s(), upload_id=upload_id)

    def acknowledged(self, number: int, job_id: str, study_bytes: int) -> None:
        """Note that the gateway says a study is safe."""
        self._write(
            number=number,
            acknowledged_s=self.now_s(),
            job_id=job_id,
            study_bytes=study_bytes,
        )

    def ended(self, number: int, outcome: str, code: str = "") -> None:
        """Note a study's end: ``Study`` has the outcomes."""
        self._in_flight -= 1
        self._write(number=number, ended_s=self.now_s(), outcome=outcome, code=code)

    def _write(self, **entry: Any) -> None:
        self._file.write(json.dumps(entry) + "\n")


def read_journals(
    schedule: Sequence[Arrival], folder: Path
) -> tuple[tuple[Study, ...], tuple[Generator, ...]]:
    """Put together what the generators noted.

    Args:
        schedule: What was due.
        folder: Of their journals; one that was cut off counts as far as it goes.

    Returns:
        Every study of the schedule, and the generators that came to their end.
    """
    studies = {one.number: Study(one) for one in schedule}
    generators: list[Generator] = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry: dict[str, Any] = json.loads(line)
            if "number" in entry:
                number = entry.pop("number")
                studies[number] = replace(studies[number], **entry)
            elif "cpu_s" in entry:
                generators.append(Generator(**entry))
    return tuple(studies.values()), tuple(generators)


def beginning(folder: Path) -> float | None:
    """``time.time()`` when the load of these journals began; None before that."""
    for path in folder.glob("*.jsonl"):
        with path.open(encoding="utf-8") as file:
            first = file.readline()
        if first.endswith("\n"):
            return float(json.loads(first)["began"])
    return None
