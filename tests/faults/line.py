"""A network line that can be spoilt: a sender's namespace, and a virtual cable to this one.

namespace of the sender ◀──veth: loss, 8 Mbit, unplugged, resets, silence──▶ gateway
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ("Line", "line", "why_not")

_TOOLS = ("ip", "tc", "iptables")


@dataclass(frozen=True)
class Line:
    """One cable with a host at each end.

    Attributes:
        namespace: Name of the sender's namespace.
        here: This end's device.
        there: The sender's end's device.
        gateway: Address of this end, where the gateway listens.
    """

    namespace: str
    here: str
    there: str
    gateway: str

    def inside(self, *command: str) -> tuple[str, ...]:
        """Return a command that runs ``command`` in the sender's namespace."""
        return ("ip", "netns", "exec", self.namespace, *command)

    @contextlib.contextmanager
    def loss(self, probability: float) -> Iterator[None]:
        """Lose this part of the packets, each way."""
        match = ("-m", "statistic", "--mode", "random", "--probability", str(probability))
        with self._rule(*match, "-j", "DROP"):
            yield

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Lose every packet; the devices stay up, so neither end is told."""
        with self._rule("-j", "DROP"):
            yield

    @contextlib.contextmanager
    def resets(self) -> Iterator[None]:
        """Answer every packet of a connection with a reset."""
        with self._rule("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"):
            yield

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """Take the cable out."""
        _run("ip", "link", "set", self.here, "down")
        try:
            yield
        finally:
            _run("ip", "link", "set", self.here, "up")

    @contextlib.contextmanager
    def slow(self, rate: str) -> Iterator[None]:
        """Let no more than this pass, each way; ``rate`` as tc reads it, such as 8mbit."""
        shape = ("root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
        _run("tc", "qdisc", "add", "dev", self.here, *shape)
        _run(*self.inside("tc", "qdisc", "add", "dev", self.there, *shape))
        try:
            yield
        finally:
            _run("tc", "qdisc", "del", "dev", self.here, "root")
            _run(*self.inside("tc", "qdisc", "del", "dev", self.there, "root"))

    @contextlib.contextmanager
    def _rule(self, *rule: str) -> Iterator[None]:
        """Apply a packet filter rule to what arrives at each end."""
        here = ("INPUT", "-i", self.here, *rule)
        there = ("INPUT", "-i", self.there, *rule)
        _run("iptables", "-w", "-I", *here)
        _run(*self.inside("iptables", "-w", "-I", *there))
        try:
            yield
        finally:
            _run("iptables", "-w", "-D", *here)
            _run(*self.inside("iptables", "-w", "-D", *there))


def why_not() -> str:
    """Return why no line can be made here; "" when one can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: iproute2, iptables)"
    try:
        with line() as trial, trial.loss(0.5), trial.slow("8mbit"):
            return ""
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        return f"network namespaces are not allowed here: {' '.join(error.cmd)}: {said}"


@contextlib.contextmanager
def line() -> Iterator[Line]:
    """Make a namespace and a cable to it, gone afterwards.

    Raises:
        subprocess.CalledProcessError: It is not allowed here.
    """
    number = os.getpid() % 60_000
    subnet = f"10.{77 + number // 16_000}.{number // 64 % 250}.{number % 64 * 4}"
    prefix, _, last = subnet.rpartition(".")
    gateway, sender = f"{prefix}.{int(last) + 1}", f"{prefix}.{int(last) + 2}"
    made = Line(f"hf{number}", f"hfa{number}", f"hfb{number}", gateway)
    _run("ip", "netns", "add", made.namespace)
    try:
        ends = ("type", "veth", "peer", "name", made.there, "netns", made.namespace)
        _run("ip", "link", "add", made.here, *ends)
        _run("ip", "address", "add", f"{gateway}/30", "dev", made.here)
        _run("ip", "link", "set", made.here, "up")
        _run(*made.inside("ip", "address", "add", f"{sender}/30", "dev", made.there))
        _run(*made.inside("ip", "link", "set", made.there, "up"))
        _run(*made.inside("ip", "link", "set", "lo", "up"))
        yield made
    finally:
        _run("ip", "netns", "delete", made.namespace)
        subprocess.run(["ip", "link", "delete", made.here], capture_output=True, check=False)


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)
