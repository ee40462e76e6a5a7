"""The senders' own ledger: what they handed in and what they were told, the judge of a chaos run.

sender ──begun, acknowledged, fetched, refused──▶ one JSON line, fsynced ──▶ Upload …
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ("Journal", "Upload", "read_journal")


@dataclass
class Upload:
    """One study as its sender knows it.

    Attributes:
        upload_id: The sender's id, the same for every try.
        number: Says what its content is: ``small_study(number)``.
        job_ids: Every job id that an acknowledgement named; more than one breaks the promise.
        fetched: How often its result came, was opened and was its own.
        refused: What the sender was told by any answer that is not "try again".
        erased: Whether the proof came that the patient was erased.
    """

    upload_id: str
    number: int
    job_ids: set[str] = field(default_factory=set)
    fetched: int = 0
    refused: list[str] = field(default_factory=list)
    erased: bool = False


class Journal:
    """An append-only file; what ``note`` returned from survives the kill of this process.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def __enter__(self) -> Self:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def note(self, event: str, upload_id: str, **facts: Any) -> None:
        """Write one line and make it durable."""
        line = json.dumps({"event": event, "upload_id": upload_id, **facts})
        os.write(self._file, line.encode() + b"\n")
        os.fsync(self._file)

    def uploads(self) -> dict[str, Upload]:
        """Return every upload noted so far, by id."""
        return read_journal(self._path)


def read_journal(path: Path) -> dict[str, Upload]:
    """Return every upload of a journal, by id."""
    uploads: dict[str, Upload] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        upload_id = entry["upload_id"]
        match entry["event"]:
            case "begun":
                uploads[upload_id] = Upload(upload_id, entry["number"])
            case "acknowledged":
                uploads[upload_id].job_ids.add(entry["job_id"])
            case "fetched":
                uploads[upload_id].fetched += 1
            case "erased":
                uploads[upload_id].erased = True
            case "refused":
                uploads[upload_id].refused.append(entry["answer"])
    return uploads
