"""Starts locust: one process, or a master and workers, headless or with its page.

plan ──▶ locust (master) ─▶ locust workers 1 … N ──▶ journals
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.addresses import free_ports
from client.errors import ConfigurationError, Transient
from client.process import tied_command
from client.settings import Settings
from loadtest.traffic.plan import PLAN_VARIABLE

__all__ = ("Generators", "start_generators")

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
ROOT = Path(__file__).parents[2]
_END_S = 20.0


@dataclass(frozen=True)
class Generators:
    """Running processes of locust.

    Attributes:
        first: The master, or the only one; it ends when everything is sent and answered.
        workers: The others.
        log: What they say.
    """

    first: subprocess.Popen[bytes]
    workers: tuple[subprocess.Popen[bytes], ...]
    log: Path

    def are_running(self) -> bool:
        """Whether they still send.

        Raises:
            Transient: One of them broke; the end of the log is in the message.
        """
        code = self.first.poll()
        broken = [one for one in self.workers if one.poll() not in (None, 0)]
        # locust's own 1 says that requests failed, which is ours to judge.
        if code not in (None, 0, 1) or (broken and code is None):
            tail = self.log.read_text(errors="replace")[-2000:]
            raise Transient(f"A load generator ended early; the end of {self.log}:\n{tail}")
        return code is None


@contextlib.contextmanager
def start_generators(
    plan: Path, settings: Settings, count: int, out: Path, locust_options: Sequence[str] = ()
) -> Iterator[Generators]:
    """Start locust, and end what is left of it at the end.

    Args:
        plan: The plan's file.
        settings: How the generators call the gateway.
        count: Processes that send; with more than one a master is added.
        out: Where the log and locust's own report go.
        locust_options: Handed on; with none of them it runs without a page.

    Raises:
        ConfigurationError: There is no locust.
    """
    program = Path(sys.executable).with_name("locust")
    if not program.exists():
        raise ConfigurationError("Expected locust: pip install -e '.[server,loadtest]'.")
    base = [str(program), "-f", str(LOCUSTFILE), "--loglevel", "INFO"]
    front = [
        *(locust_options or ["--headless", "--only-summary"]),
        "--html",
        str(out / "locust.html"),
    ]
    environment = {
        **os.environ,
        **settings.environment(),
        PLAN_VARIABLE: str(plan),
        "PYTHONPATH": str(ROOT),
    }
    commands = [[*base, *front]]
    unpatched = {"LOCUST_SKIP_MONKEY_PATCH": "1"}
    environments = [environment | unpatched]
    if count > 1:
        # A master sends nothing, and waits for its workers in a way that only works when patched.
        environments = [environment, *[environment | unpatched] * count]
        port = str(free_ports(1)[0])
        commands[0] += ["--master", "--master-bind-port", port, "--expect-workers", str(count)]
        commands += [[*base, "--worker", "--master-port", port]] * count
    path = out / "locust.log"
    with path.open("wb") as log:
        children = [
            subprocess.Popen(
                tied_command(command),
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
            for command, variables in zip(commands, environments, strict=True)
        ]
    try:
        yield Generators(children[0], tuple(children[1:]), path)
    finally:
        _end(children)


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Workers end soon after their master; whoever does not is killed."""
    deadline = time.monotonic() + _END_S
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(
                max(0.1, deadline - time.monotonic()) if children[0].poll() is not None else 0.1
            )
        child.kill()
        child.wait()
