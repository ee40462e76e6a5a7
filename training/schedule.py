"""Learning rate by the clock: warm-up, constant, linear cool-down to a chosen end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ("ClockSchedule", "next_time_of_day")


def next_time_of_day(text: str, now: datetime) -> datetime:
    """Return the next moment whose wall clock shows `text` ("HH:MM").

    Raises:
        ValueError: `text` is not a time of day.
    """
    hour, minute = (int(part) for part in text.split(":"))
    moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return moment if moment > now else moment + timedelta(days=1)


@dataclass(frozen=True)
class ClockSchedule:
    """Fraction of the peak learning rate.

    Attributes:
        end_s: The moment (seconds since the epoch) at which the rate reaches 0.
        cooldown_s: For how long before the end the rate falls.
        warmup_steps: Over how many steps the rate rises.
    """

    end_s: float
    cooldown_s: float
    warmup_steps: int = 100

    def factor(self, step: int, now_s: float) -> float:
        """Return the factor 0..1 at this step and moment."""
        falling = (self.end_s - now_s) / self.cooldown_s
        return max(0.0, min(1.0, (step + 1) / self.warmup_steps, falling))
