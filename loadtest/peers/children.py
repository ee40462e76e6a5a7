"""A server of someone else's as a child of this process, which leaves nothing behind.

this process ─▶ guard ─▶ server ─▶ its own children
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtest.peers import guard

__all__ = ("Child",)

LOG_TAIL_BYTES = 4000
STOP_TIMEOUT_S = 2 * guard.STOP_TIMEOUT_S


class Child:
    """One process with all its descendants; also a kill -9 of this process ends it.

    Args:
        log_path: Where its output goes.
    """

    def __init__(self, log_path: Path) -> None:
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id of its guard, whose child it is; 0 unless it is started."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    async def start(
        self, argv: Sequence[str], variables: Mapping[str, str], *, talks: bool = False
    ) -> None:
        """Starts it in a session of its own.

        Args:
            argv: Absolute path of the program, and its arguments.
            variables: Added to this process's environment.
            talks: Whether its standard input and output are pipes to this process.
        """
        # One thread: a product of small matrices is over before others have woken up.
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **variables}
        pipe = asyncio.subprocess.PIPE if talks else None
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", guard.__file__, str(os.getpid()), *argv),
                env=env,
                stdin=pipe or asyncio.subprocess.DEVNULL,
                stdout=pipe or log,
                stderr=log,
                start_new_session=True,
            )

    async def stop(self) -> None:
        """Asks the guard to end everything; if it does not, ends what is left in its session."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._process = None

    async def write_line(self, line: bytes) -> None:
        """Writes to the standard input of one that talks; a reader that has gone is no error."""
        stream = self._process.stdin if self._process else None
        if stream is None:
            raise RuntimeError("expected a process that is started and talks")
        with contextlib.suppress(ConnectionError):
            stream.write(line)
            await stream.drain()

    async def read_line(self) -> bytes:
        """A line from the standard output of one that talks; empty once it has ended."""
        stream = self._process.stdout if self._process else None
        if stream is None:
            raise RuntimeError("expected a process that is started and talks")
        return await stream.readline()

    def log_tail(self) -> str:
        """The end of its output."""
        return self._log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
