"""Senders in a process of their own, so that they can live at the far end of a spoilt line.

python -m tests.faults.remote JOURNAL SENDERS SIDE DELAY_S FIRST   (ends after a line on its stdin)

    senders ──(slow proxy, when there is a delay)──▶ gateway
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

from client.cli.sending import connect
from client.ingest.sender import IngestClient
from client.settings import load_settings
from tests.faults.journal import Journal
from tests.faults.line import Line
from tests.faults.senders import Load, sending
from tests.faults.stand import ROOT, Stand

__all__ = ("main", "remote_senders")

_END_S = 240.0


@contextlib.contextmanager
def remote_senders(
    line: Line,
    stand: Stand,
    journal: Path,
    *,
    senders: int,
    side: int,
    delay_s: float = 0.0,
    first: int = 0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run senders at the far end; at the end every study that was begun is acknowledged.

    Args:
        line: Whose far end.
        stand: What they send to.
        journal: Where they note everything.
        senders: How many.
        side: Rows and columns of their studies; 512 makes 1.5 MB.
        delay_s: Added each way by a proxy.
        first: Number of the first study; each has another one.
    """
    words = map(str, (journal, senders, side, delay_s, first))
    errors = journal.with_suffix(".log")
    with errors.open("ab") as log:
        process = subprocess.Popen(
            line.inside(sys.executable, "-m", "tests.faults.remote", *words),
            env={**os.environ, **stand.settings.environment()},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stderr=log,
        )
    try:
        yield process
        process.communicate(b"\n", timeout=_END_S)
        assert process.returncode == 0, f"the senders ended with an error; see {errors}"
    finally:
        process.kill()
        process.wait()


async def _run(journal_path: Path, senders: int, side: int, delay_s: float, first: int) -> None:
    settings = load_settings()
    async with contextlib.AsyncExitStack() as owned:
        if delay_s:
            host, _, port = settings.gateway.rpartition(":")
            near = await owned.enter_async_context(_slow_proxy(host, int(port), delay_s))
            settings = replace(settings, gateway=f"127.0.0.1:{near}")

        def connection() -> IngestClient:
            return connect(settings)

        journal = owned.enter_context(Journal(journal_path))
        shape = (3, side, side)
        await owned.enter_async_context(sending(Load(connection, journal, senders, shape, first)))
        await asyncio.to_thread(sys.stdin.readline)


@contextlib.asynccontextmanager
async def _slow_proxy(host: str, port: int, delay_s: float) -> AsyncIterator[int]:
    """Pass bytes on both ways, each piece so much later; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(
            _pass_on(reader, far_writer, delay_s), _pass_on(far_reader, writer, delay_s)
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float
) -> None:
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

    async def deliver() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not piece:
                return
            writer.write(piece)
            await writer.drain()

    delivering = asyncio.create_task(deliver())
    try:
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                await pieces.put((loop.time() + delay_s, piece))
            await pieces.put((loop.time() + delay_s, b""))
            await delivering
    finally:
        delivering.cancel()
        writer.close()


def main() -> None:
    """Send until a line comes."""
    journal, senders, side, delay_s, first = sys.argv[1:6]
    asyncio.run(_run(Path(journal), int(senders), int(side), float(delay_s), int(first)))


if __name__ == "__main__":
    main()
