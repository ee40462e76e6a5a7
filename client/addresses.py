"""host:port, as settings spell where something listens, and ports that are free."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket

from client.errors import ConfigurationError

__all__ = ("free_ports", "host_and_port", "next_port")

_HIGHEST = 65535
_SERVED = range(20_000, 32_000)
"""Below those that Linux gives to whoever connects (``ip_local_port_range``, from 32768 on): one of
these would be taken by the next connection of anybody before its server has started."""


def host_and_port(address: str) -> tuple[str, int]:
    """Return the two parts of ``host:port``; an IPv6 address stands in brackets.

    Raises:
        ConfigurationError: It is not of that form.
    """
    host, _, port = address.rpartition(":")
    plain = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bare_ipv6 = ":" in plain and plain == host
    if not plain or bare_ipv6 or not port.isascii() or not port.isdecimal():
        raise ConfigurationError(f"Expected host:port, got {address!r}.")
    if int(port) > _HIGHEST:
        raise ConfigurationError(f"Expected a port up to {_HIGHEST}, got {address!r}.")
    return plain, int(port)


def next_port(address: str) -> str:
    """Return the same host with the next port; "" for "".

    Raises:
        ConfigurationError: As for ``host_and_port``, or there is no next port.
    """
    if not address:
        return ""
    _, port = host_and_port(address)
    following = f"{address.rpartition(':')[0]}:{port + 1}"
    host_and_port(following)
    return following


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that nobody listens on now, all different; nothing keeps them free."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            probe, port = held.enter_context(socket.socket()), secrets.choice(_SERVED)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                found.append(port)
    return found
