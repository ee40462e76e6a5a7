"""The supervisor as a process of its own: keys, services, Triton's watchdog, until SIGTERM.

python -m client.stack.local [--with-parent]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path

from client.crypto.keydirectory import create_key_directory
from client.discretion import be_discreet
from client.errors import ClientError
from client.process import die_with_parent
from client.settings import Settings, load_settings
from client.stack.control import log_directory, run_directory
from client.stack.services import local_services
from client.stack.supervisor import Supervisor
from client.triton.watchdog import STUCK, Watchdog, WatchdogEvent

__all__ = ("main", "run_local_stack")


def run_local_stack(settings: Settings) -> None:
    """Run the whole stack until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: A part is missing, did not start, or another stack runs in this home.
    """
    os.umask(0o077)
    create_key_directory(Path(settings.keys), settings.tenant)
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    local = local_services(settings)
    supervisor = Supervisor(local.services, run_directory(settings), log_directory(settings))
    watching = None
    if local.triton is not None:
        watchdog = Watchdog(local.triton, lambda event: _on_event(event, supervisor))
        watching = asyncio.create_task(_watch(watchdog, supervisor))
    try:
        await supervisor.run()
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _watch(watchdog: Watchdog, supervisor: Supervisor) -> None:
    """Watch Triton's models from the moment the server is ready until everything stops."""
    await supervisor.until_ready("triton")
    watching = asyncio.create_task(watchdog.run())
    await supervisor.until_stopping()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def _on_event(event: WatchdogEvent, supervisor: Supervisor) -> None:
    if event.status == STUCK:
        supervisor.kill("triton")


def main() -> int:
    """Run; print a readable error and return 3 when the stack cannot start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--with-parent", action="store_true")
    if parser.parse_args().with_parent:
        die_with_parent()
    be_discreet()
    try:
        run_local_stack(load_settings())
    except ClientError as error:
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.write(f"{error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
