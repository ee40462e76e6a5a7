"""Logs as JSON, one object a line, for those who collect them; text is the default.

    "job=%s attempt=%d claimed" ─▶ {"time": …, "level": "INFO", "logger": "client.worker.loop",
                                    "event": "job=… attempt=1 claimed", "job": "…", "attempt": 1}

What a record of ours names as ``name=%s`` is a field of that name as well. The same is kept back as
in text: of a library's record its place is told, of an error its way.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from client.discretion import DiscreetFormatter, be_discreet, is_ours
from client.settings import Settings
from client.telemetry.traces import current

__all__ = ("JsonFormatter", "begin_logs", "trace_id")

_PLACE = re.compile(r"(?:\b([a-z_]+)=)?%(?:(%)|[-+ #0]*\d*(?:\.\d+)?[a-zA-Z])")
_Plain = str | int | float | bool


def begin_logs(settings: Settings) -> None:
    """Make this process discreet, and log as the settings say."""
    be_discreet(JsonFormatter(trace_id) if settings.log_format == "json" else None)


def trace_id() -> str:
    """Return the id of the trace in work, 32 hexadecimal digits; "" when none is recorded."""
    step = current()
    return "" if step is None else format(step.get_span_context().trace_id, "032x")


class JsonFormatter(DiscreetFormatter):
    """Spells a record as a JSON object on one line.

    Args:
        trace: Says which trace is in work, "" for none.
    """

    def __init__(self, trace: Callable[[], str] = lambda: "") -> None:
        super().__init__()
        self._trace = trace

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {}
        if is_ours(record):
            fields = dict(_named(record)) | getattr(record, "fields", {})
        optional = {"error": self.error_of(record), "trace_id": self._trace()}
        fields |= {name: text for name, text in optional.items() if text}
        fields |= {
            "time": _rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "event": self.told(record).getMessage(),
        }
        order = ("time", "level", "logger", "event")
        return json.dumps(
            {name: fields[name] for name in order} | fields, ensure_ascii=False, default=str
        )


def _named(record: logging.LogRecord) -> Iterator[tuple[str, _Plain]]:
    """The arguments that a record's text names: ``job=%s`` gives job."""
    values = record.args if isinstance(record.args, tuple) else ()
    places = [match for match in _PLACE.finditer(str(record.msg)) if not match[2]]
    for match, value in zip(places, values, strict=False):
        if match[1]:
            yield match[1], value if isinstance(value, int | float) else str(value)


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")
