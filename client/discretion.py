"""What our processes say about themselves: what broke and where, never with which values.

    exception ──▶ types and places       library's log record ──▶ its place
    our own log record ──▶ as it is      crash ──▶ no core dump

An exception's text may quote what it stumbled over, and a core dump holds every study in memory.
Our own messages are written without values; everyone else's are not taken on trust.
"""

from __future__ import annotations

import ctypes
import logging
import resource
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from client.errors import ClientError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = (
    "DiscreetFormatter",
    "be_discreet",
    "forbid_core_dumps",
    "is_ours",
    "path_of",
    "place_of",
)

_LOG = logging.getLogger(__name__)
_OURS = frozenset(("__main__", "client", "preprocess"))
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_PR_SET_DUMPABLE = 4
_DEEPEST = 12


def be_discreet(formatter: DiscreetFormatter | None = None) -> None:
    """Make this process discreet for the rest of its life; a server's ``main`` begins with it.

    Log records go to standard error, one line each; of a library's only warnings and worse. Errors
    that nobody caught, in any thread or task, are told by type and place.

    Args:
        formatter: Spells a record; None: as text.
    """
    forbid_core_dumps()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter or DiscreetFormatter())
    handler.addFilter(_is_told)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _tell_end
    sys.unraisablehook = _tell_unraisable
    threading.excepthook = _tell_thread


def forbid_core_dumps() -> None:
    """Let no crash of this process, or of what it starts, write memory to a disk.

    The limit passes to every child. Linux ignores it when the system pipes dumps to a program
    (core(5)), so the process is made undumpable as well; that lasts until the next ``exec`` and
    keeps other processes of the same user from reading its memory.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


def place_of(error: BaseException) -> str:
    """Return what broke and where: ``ValueError at reader.py:120``."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def path_of(error: BaseException) -> str:
    """Return what broke, every place on the way there, and what caused it; one line.

    Of our own errors the message is told too: it never holds a value.
    """
    told: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        frames = traceback.extract_tb(cause.__traceback__)[-_DEEPEST:]
        way = " > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames)
        text = f": {cause}" if isinstance(cause, ClientError) else ""
        told.append(f"{type(cause).__name__} ({way or 'nowhere'}){text}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return " caused by ".join(told)


def is_ours(record: logging.LogRecord) -> bool:
    """Return whether our own code wrote a record."""
    return record.name.partition(".")[0] in _OURS


def _is_told(record: logging.LogRecord) -> bool:
    return is_ours(record) or record.levelno >= logging.WARNING


class DiscreetFormatter(logging.Formatter):
    """Spells a record as a line of text, without what others put into it."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        text, error = super().format(self.told(record)), self.error_of(record)
        return f"{text}: {error}" if error else text

    @staticmethod
    def told(record: logging.LogRecord) -> logging.LogRecord:
        """Return what may be told of a record, which of others' is its place."""
        kept = {**record.__dict__, "exc_info": None, "exc_text": None, "stack_info": None}
        if not is_ours(record):
            place = f"{record.name} at {Path(record.pathname).name}:{record.lineno}"
            kept |= {"msg": place, "args": ()}
        return logging.makeLogRecord(kept)

    @staticmethod
    def error_of(record: logging.LogRecord) -> str:
        """Return what broke and where; "" for a record of no error."""
        error = record.exc_info[1] if record.exc_info else None
        return path_of(error) if error else ""


def _tell_end(
    kind: type[BaseException], error: BaseException, _trace: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _LOG.critical("ended by %s", path_of(error))


def _tell_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _LOG.critical("a thread was ended by %s", path_of(args.exc_value))


def _tell_unraisable(args: UnraisableHookArgs) -> None:
    if args.exc_value is not None:
        _LOG.error("unraisable: %s", path_of(args.exc_value))
