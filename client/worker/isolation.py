"""Runs functions in processes of their own, so that hostile input cannot take the worker along.

    worker ──function, arguments──▶ child (limited memory and time) ──return value──▶ worker

``Isolation`` gives each call a fresh child, for what reads data from outside. ``Assistants`` are
children that stay, for CPU-bound work on data that has been checked. All are forked from a clean,
preloaded server process. Large arrays lie in blocks of shared memory or travel through pipes;
nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pickle
import resource
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, reduction
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from client.discretion import forbid_core_dumps, place_of
from client.errors import ClientError, RefusalCode, Rejected
from client.process import die_with_parent
from client.worker.blocks import Block, map_block
from client.worker.cputime import charge_cpu
from client.worker.wire import receive, receive_answer, send

__all__ = ("Assistants", "Isolation", "Runner", "preload")

P = ParamSpec("P")
R = TypeVar("R")

_CONTEXT = multiprocessing.get_context("forkserver")


def preload(modules: list[str]) -> None:
    """Start the server process now; it imports these modules once, for all its children."""
    _CONTEXT.set_forkserver_preload(modules)
    forkserver.ensure_running()


class Runner(Protocol):
    """Runs functions elsewhere."""

    async def run(
        self, blocks: Sequence[Block], function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return ``function(*args, **kwargs)``, computed in a child process.

        The function must be importable, its arguments and result picklable, and the result made
        of the types that ``client.worker.wire`` lists.

        Args:
            blocks: Shared memory for the child; arrays in it are not copied, both ways.
            function: What to run.
            *args: Its arguments.
            **kwargs: Its arguments.

        Raises:
            Rejected: The function raised it, or ``TIMED_OUT`` or ``DECODER_CRASHED``: the child
                outlived its time, ran out of memory or died by a signal.
            ClientError: Any other error of ours that the function raised.
        """
        ...


class Isolation:
    """Runs each function in a fresh child, which ends with it.

    Args:
        timeout_s: Seconds one call may take before the child is killed.
        memory_bytes: Address space of one child.
    """

    def __init__(self, timeout_s: float, memory_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes

    async def run(
        self, blocks: Sequence[Block], function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """See ``Runner.run``."""
        child = _Child(self._memory_bytes)
        try:
            return cast("R", await child.run(self._timeout_s, blocks, (function, args, kwargs)))
        finally:
            await asyncio.to_thread(child.end)


class Assistants:
    """Children that stay; one that crashed or took too long is replaced by the next call.

    Args:
        timeout_s: Seconds one call may take before the child is killed.
        memory_bytes: Address space of one child.
    """

    def __init__(self, timeout_s: float, memory_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._idle: list[_Child] = []

    async def run(
        self, blocks: Sequence[Block], function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """See ``Runner.run``."""
        child = self._idle.pop() if self._idle else _Child(self._memory_bytes)
        try:
            return cast("R", await child.run(self._timeout_s, blocks, (function, args, kwargs)))
        finally:
            if child.is_ready:
                self._idle.append(child)
            else:
                await asyncio.to_thread(child.end)

    def close(self) -> None:
        """End them all; none may be at work."""
        while self._idle:
            self._idle.pop().end()


class _Child:
    """One child process and the line to it."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._ours, self._theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_serve, args=(self._theirs, memory_bytes), daemon=True
        )
        self._abandoned = False
        self.is_ready = False
        """Whether it has answered and waits for the next call."""

    async def run(self, timeout_s: float, blocks: Sequence[Block], call: object) -> Any:
        self.is_ready = False
        began_s = time.monotonic()
        talk = asyncio.create_task(asyncio.to_thread(self._converse, blocks, call))
        try:
            done, _ = await asyncio.wait({talk}, timeout=timeout_s)
            if not done:
                raise Rejected(
                    RefusalCode.TIMED_OUT,
                    f"Processing was expected to take at most {timeout_s:g} s and was stopped; "
                    "send fewer or smaller instances per study.",
                )
            kind, value, cpu_s = talk.result()
        except BaseException:
            # The thread waits for an answer, which the end of the child ends.
            await asyncio.shield(asyncio.to_thread(self._abandon))
            await asyncio.wait({talk})
            with contextlib.suppress(BaseException):
                talk.result()
            # It can no longer say what it took; it had a core all the time, as far as we know.
            charge_cpu(time.monotonic() - began_s)
            raise
        # Nor does a child that was taken over get to say more than it can have taken.
        charge_cpu(min(cpu_s, (time.monotonic() - began_s) * (os.cpu_count() or 1)))
        self.is_ready = True
        if kind == "error":
            raise value
        return value

    def end(self) -> None:
        """Kill it and wait for its end."""
        self._ours.close()
        self._theirs.close()
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()
            self._process.close()

    def _abandon(self) -> None:
        self._abandoned = True
        if self._process.pid is not None:
            self._process.kill()

    def _converse(self, blocks: Sequence[Block], call: object) -> tuple[str, Any, float]:
        if self._process.pid is None:
            self._process.start()
            self._theirs.close()
        if self._abandoned:
            self._process.kill()
        memories = [block.bytes for block in blocks]
        try:
            with contextlib.suppress(BrokenPipeError):
                _send_blocks(self._ours, blocks)
                send(self._ours, call, memories)
            kind, value, cpu_s = receive_answer(self._ours, memories, self._memory_bytes)
            known = kind == "value" or (kind == "error" and isinstance(value, ClientError))
            if known and isinstance(cpu_s, float) and cpu_s >= 0:
                return kind, value, cpu_s
        except (EOFError, OSError, ValueError, TypeError, pickle.UnpicklingError):
            pass
        raise Rejected(
            RefusalCode.DECODER_CRASHED,
            "The isolated process died while it worked on this study; the data is damaged or "
            "needs more memory than is allowed. Export and send it again, or in smaller parts.",
        )


def _send_blocks(connection: Connection, blocks: Sequence[Block]) -> None:
    connection.send(len(blocks))
    if blocks:
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            reduction.sendfds(line, [block.fd for block in blocks])


def _receive_blocks(connection: Connection) -> list[Any]:
    count = connection.recv()
    if not count:
        return []
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        return [map_block(fd) for fd in reduction.recvfds(line, count)]


def _serve(connection: Connection, memory_bytes: int) -> None:
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    forbid_core_dumps()
    _say_nothing()
    cpu = _CpuTime()
    with contextlib.suppress(EOFError):
        while _answer(connection, cpu):
            pass


class _CpuTime:
    """CPU time of this process and of its children that have ended."""

    def __init__(self) -> None:
        self._told_s = 0.0

    def since_last_s(self) -> float:
        """Seconds since this was last asked, at first since the process began."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        now_s = sum(one.ru_utime + one.ru_stime for one in used)
        since_s, self._told_s = now_s - self._told_s, now_s
        return since_s


def _answer(connection: Connection, cpu: _CpuTime) -> bool:
    """Serve one call; say whether the next one can be served."""
    memories = _receive_blocks(connection)
    try:
        function, args, kwargs = receive(connection, memories)
        answer = ("value", function(*args, **kwargs))
    except ClientError as error:
        answer = ("error", error)
    except MemoryError:
        return False
    except EOFError:
        raise
    except Exception as error:
        answer = ("error", _crash(error))
    send(connection, (*answer, cpu.since_last_s()), memories)
    return True


def _say_nothing() -> None:
    """Close the mouth of every library: decoders write to standard error what they stumble over."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _crash(error: Exception) -> Rejected:
    """Say where the function broke, but not the exception's text: it may quote patient data."""
    return Rejected(
        RefusalCode.DECODER_CRASHED,
        f"Reading this study broke with {place_of(error)}; the data is probably damaged. Please "
        "report this place to the developers.",
    )
