"""Moments of a week in cron's notation, as far as a weekly schedule needs it.

``30 7 * * 1-5`` ─▶ minutes of the week ─▶ how long ago was the last one?
"""

from __future__ import annotations

from bisect import bisect_right

from client.errors import ConfigurationError

__all__ = ("WEEK_S", "WeeklyCron")

_DAY_MIN = 24 * 60
_WEEK_MIN = 7 * _DAY_MIN
WEEK_S = 60.0 * _WEEK_MIN
"""Seconds of a week."""


class WeeklyCron:
    """Five fields of crontab(5): numbers, lists, ranges and steps; every day of every month.

    Args:
        text: minute, hour, ``*``, ``*``, day of the week (0 and 7 are Sunday).

    Raises:
        ConfigurationError: Another form, such as a day of the month or a day's name.
    """

    def __init__(self, text: str) -> None:
        parts = text.split()
        if len(parts) != 5 or parts[2:4] != ["*", "*"]:
            raise ConfigurationError(f"Expected 'minute hour * * weekdays', found {text!r}.")
        minutes, hours = _numbers(parts[0], 0, 59), _numbers(parts[1], 0, 23)
        days = {(day - 1) % 7 for day in _numbers(parts[4], 0, 7)}
        self.text = text
        self._fires = sorted(
            day * _DAY_MIN + hour * 60 + minute
            for day in days
            for hour in hours
            for minute in minutes
        )

    def since_s(self, week_s: float) -> float:
        """Seconds since it last fired.

        Args:
            week_s: Now, in seconds since a Monday 0:00.
        """
        minute = week_s / 60 % _WEEK_MIN
        last = self._fires[bisect_right(self._fires, minute) - 1]
        return (minute - last) % _WEEK_MIN * 60


def _numbers(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    try:
        for part in field.split(","):
            span, _, step = part.partition("/")
            first, _, last = span.partition("-")
            if span == "*":
                first, last = str(low), str(high)
            end = int(last) if last else (high if step else int(first))
            found.update(range(int(first), end + 1, int(step or 1)))
    except ValueError as error:
        raise ConfigurationError(f"Expected numbers in a cron field, found {field!r}.") from error
    if not found or min(found) < low or max(found) > high:
        raise ConfigurationError(f"Expected {low} to {high} in a cron field, found {field!r}.")
    return found
