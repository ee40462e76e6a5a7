"""What a load generator is told: the load, whom to send it to, where to note what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from client.errors import ConfigurationError
from loadtest.traffic.arrivals import Arrival
from loadtest.traffic.shapes import Load, schedule_of
from preprocess.errors import SpecError
from preprocess.parsing import build

__all__ = ("PLAN_VARIABLE", "TARGETS", "Plan", "read_plan", "write_plan")

PLAN_VARIABLE = "LOADTEST_PLAN"
"""Names the file in a generator's environment."""
TARGETS = ("ingest", "triton")


@dataclass(frozen=True)
class Plan:
    """A load test, for the generators.

    Attributes:
        load: What is sent; each generator draws the same schedule from it.
        generators: Processes that share it.
        journals: Folder of their journals.
        target: ``ingest``: studies through the gateway, whose address and keys are the process's
            settings; ``triton``: their slices straight to the server.
        triton_url: host:port of Triton's gRPC service; "" for ``ingest``.
    """

    load: Load
    generators: int
    journals: str
    target: str = TARGETS[0]
    triton_url: str = ""

    def arrivals(self) -> tuple[Arrival, ...]:
        """The schedule; Triton gets only what a model takes.

        Raises:
            ConfigurationError: Nothing is due.
        """
        everything = schedule_of(self.load)
        if self.target == TARGETS[0]:
            return everything
        return tuple(one for one in everything if one.expected == "done")


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan as JSON."""
    path.write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")


def read_plan(path: Path) -> Plan:
    """Read a plan, strictly.

    Raises:
        ConfigurationError: It is not one.
    """
    try:
        return build(Plan, json.loads(path.read_text(encoding="utf-8")), "plan")
    except (OSError, ValueError, SpecError) as error:
        raise ConfigurationError(f"Expected a plan of a load test in {path}: {error}") from error
