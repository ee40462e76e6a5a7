"""The parent's end of one engine's process: JSON lines out, JSON lines back, an end to it."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Any, cast

import psutil

from export.children import child_environment
from export.errors import EngineError

__all__ = ("EngineProcess",)

ANSWER_TIMEOUT_S = 300.0


class EngineProcess:
    """A fresh Python process with one engine, see ``export.benchmark.child``, as a context.

    Args:
        name: The engine, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed on exit)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "export.benchmark.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=child_environment(),
        )

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Sends an order and waits for the answer.

        Raises:
            EngineError: The engine cannot be loaded or run, its process ended, or it takes more
                than five minutes.
        """
        orders, answers = self._pipes
        try:
            orders.write(json.dumps(order).encode() + b"\n")
            orders.flush()
        except BrokenPipeError:
            raise EngineError(self._end()) from None
        ready, _, _ = select.select([answers], [], [], ANSWER_TIMEOUT_S)
        if not ready:
            raise EngineError(f"{self._name}: no answer within {ANSWER_TIMEOUT_S:g} s")
        line = answers.readline()
        if not line:
            raise EngineError(self._end())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(str(answer["error"]))
        return answer

    def cpu_s(self) -> float:
        """CPU seconds that it has used."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        return cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def _end(self) -> str:
        """How the process ended, with the last line that it wrote to stderr."""
        code = self._process.wait(timeout=10)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"{self._name}: its process ended with {code}: {lines[-1] if lines else 'no word'}"
