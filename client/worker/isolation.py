"""Runs one function in a process of its own, so that hostile input cannot take the worker along.

    worker ──arguments──▶ child (limited memory and time) ──return value──▶ worker

Children are forked from a clean, preloaded server process, which costs milliseconds. Arguments and
return values travel through pipes in memory; nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar, cast

from client.discretion import forbid_core_dumps, place_of
from client.errors import ClientError, RefusalCode, Rejected
from client.process import die_with_parent

__all__ = ("Isolation", "preload")

P = ParamSpec("P")
R = TypeVar("R")

_CONTEXT = multiprocessing.get_context("forkserver")
_POLL_S = 0.2


def preload(modules: list[str]) -> None:
    """Start the server process now; it imports these modules once, for all its children."""
    _CONTEXT.set_forkserver_preload(modules)
    forkserver.ensure_running()


class Isolation:
    """Runs functions in child processes with limits.

    Args:
        timeout_s: Seconds one call may take before the child is killed.
        memory_bytes: Address space of one child.
    """

    def __init__(self, timeout_s: float, memory_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``function(*args, **kwargs)``, computed in a child process.

        The function must be importable, its arguments and result picklable.

        Raises:
            Rejected: The function raised it, or ``TIMED_OUT`` or ``DECODER_CRASHED``: the child
                outlived its time, ran out of memory or died by a signal.
            ClientError: Any other error of ours that the function raised.
        """
        cancelled = False
        ours, theirs = _CONTEXT.Pipe()
        child = _CONTEXT.Process(target=_serve, args=(theirs, self._memory_bytes), daemon=True)

        def converse() -> R:
            child.start()
            theirs.close()
            deadline = time.monotonic() + self._timeout_s
            with contextlib.suppress(BrokenPipeError):
                ours.send((function, args, kwargs))
            while not cancelled:
                if ours.poll(_POLL_S):
                    return cast("R", _receive(ours))
                if time.monotonic() > deadline:
                    raise Rejected(
                        RefusalCode.TIMED_OUT,
                        f"Processing was expected to take at most {self._timeout_s:g} s and was "
                        "stopped; send fewer or smaller instances per study.",
                    )
            raise asyncio.CancelledError

        talk = asyncio.create_task(asyncio.to_thread(converse))
        try:
            return await asyncio.shield(talk)
        except asyncio.CancelledError:
            cancelled = True
            with contextlib.suppress(asyncio.CancelledError, ClientError):
                await talk
            raise
        finally:
            await asyncio.to_thread(_reap, child, ours)


def _receive(connection: Connection) -> Any:
    try:
        outcome, value = connection.recv()
    except (EOFError, ConnectionResetError):
        raise Rejected(
            RefusalCode.DECODER_CRASHED,
            "The isolated process died while it worked on this study; the data is damaged or "
            "needs more memory than is allowed. Export and send it again, or in smaller parts.",
        ) from None
    if outcome == "error":
        raise value
    return value


def _reap(child: Any, connection: Connection) -> None:
    connection.close()
    if child.pid is not None:
        child.kill()
        child.join()
        child.close()


def _serve(connection: Connection, memory_bytes: int) -> None:
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    forbid_core_dumps()
    _say_nothing()
    function, args, kwargs = connection.recv()
    try:
        answer = ("value", function(*args, **kwargs))
    except ClientError as error:
        answer = ("error", error)
    except MemoryError:
        return
    except Exception as error:
        answer = ("error", _crash(error))
    connection.send(answer)


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
