"""Serves a model repository by an embedded Triton until its standard input ends.

    python -m client.triton.serve --repository FOLDER [--model NAME ...]

One line of JSON on standard output says where, as soon as every model has answered a synthetic
slice: ``{"url": "127.0.0.1:PORT", "models": [...]}``. End of input, SIGTERM and SIGINT end it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from client.discretion import forbid_core_dumps
from client.errors import ConfigurationError
from client.triton.embedded import EmbeddedTriton
from client.triton.installation import find_installation
from client.triton.server import TritonSettings

__all__ = ("main",)

EX_UNAVAILABLE = 69
EX_CONFIG = 78


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program.

    Returns:
        0 after an ordinary end, 69 if no Triton is installed, 78 if the models cannot be served;
        the reason is on standard error.
    """
    options = _options(argv)
    forbid_core_dumps()
    try:
        find_installation()
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EX_UNAVAILABLE
    try:
        asyncio.run(_serve(options))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m client.triton.serve", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="the model repository")
    parser.add_argument("--model", action="append", default=[], help="a model; default: all")
    parser.add_argument("--log", type=Path, help="where Triton's output goes; default: nowhere")
    parser.add_argument("--start-timeout-s", type=float, default=120.0)
    return parser.parse_args(argv)


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    threading.Thread(target=_await_end_of_input, args=(loop, stop), daemon=True).start()
    settings = TritonSettings(options.repository, models=tuple(options.model))
    with tempfile.TemporaryDirectory() as folder:
        log = options.log or Path(folder, "triton.log")
        server = EmbeddedTriton(settings, log, options.start_timeout_s)
        async with server:
            ready = {"url": server.url, "models": server.settings.models}
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
            await stop.wait()


def _await_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    with contextlib.suppress(RuntimeError):  # it was ended by a signal, and the loop is closed
        loop.call_soon_threadsafe(stop.set)


if __name__ == "__main__":
    sys.exit(main())
