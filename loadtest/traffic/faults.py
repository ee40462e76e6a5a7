"""Kills a part of the local stack in the middle of a load.

worker-kill@60s ──▶ SIGKILL of the worker's process, a minute after the load began
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass

from client.errors import ConfigurationError
from client.settings import Settings
from client.stack import control

__all__ = ("PARTS", "Fault", "parse_fault", "strike")

PARTS = ("gateway", "queue", "triton", "worker")
_FORM = re.compile(rf"({'|'.join(PARTS)})-kill@(\d+(?:\.\d+)?)s")


@dataclass(frozen=True)
class Fault:
    """What is killed when.

    Attributes:
        part: Of ``PARTS``.
        at_s: Seconds after the load began.
    """

    part: str
    at_s: float


def parse_fault(text: str) -> Fault:
    """Read a fault as it stands on the command line.

    Raises:
        ConfigurationError: It is not of the form PART-kill@SECONDSs.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigurationError(
            f"Expected a fault like worker-kill@60s ({', '.join(PARTS)}), got {text!r}."
        )
    return Fault(found[1], float(found[2]))


def strike(settings: Settings, fault: Fault) -> bool:
    """Kill the part; False while it is not ready, as one that is just being started again."""
    for service in control.status(settings):
        if service.name == fault.part and service.state == "ready":
            os.kill(service.pid, signal.SIGKILL)
            return True
    return False
