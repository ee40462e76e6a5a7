"""A child of this process that follows orders, one JSON object a line, until they end.

this process ──orders──▶ python -m MODULE ──answers──▶ this process
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from client.errors import Transient

__all__ = ("Follower",)


class Follower:
    """Runs a module of this project; a context manager that owns the process.

    In a session of its own, so that what interrupts this process from a terminal leaves it alone:
    it ends when its orders do, however that comes.

    Args:
        module: What is run.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._child: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 outside the context."""
        return self._child.pid if self._child else 0

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-m", self._module],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._child is not None:
            self._child.communicate()
        self._child = None

    def say(self, order: Mapping[str, object]) -> None:
        """Gives an order.

        Raises:
            Transient: The process died.
        """
        orders, _ = self._pipes()
        try:
            orders.write(json.dumps(order) + "\n")
            orders.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def hear(self) -> str:
        """Waits for a line of answer.

        Raises:
            Transient: The process died.
        """
        _, answers = self._pipes()
        line = answers.readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> Transient:
        return Transient(f"The process of {self._module} ended before its time.")

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise RuntimeError("expected to be inside the context")
        return child.stdin, child.stdout
