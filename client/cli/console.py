"""How the command line speaks: tables for people, JSON for programs, meaningful exit codes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from client.errors import (
    AccessDenied,
    ClientError,
    ConfigurationError,
    Conflict,
    NotFound,
    Rejected,
    Transient,
)

__all__ = (
    "ExitCode",
    "Output",
    "bytes_progress",
    "exit_code_for",
    "report_error",
    "run_async",
    "stage_progress",
)

T = TypeVar("T")


class ExitCode(IntEnum):
    """What the process's exit status says."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    CONFIGURATION = 3
    REJECTED = 4
    UNAVAILABLE = 5
    NOT_FOUND = 6
    DENIED = 7
    FAILED = 8


_EXIT_CODES: tuple[tuple[type[ClientError], ExitCode], ...] = (
    (ConfigurationError, ExitCode.CONFIGURATION),
    (Rejected, ExitCode.REJECTED),
    (Transient, ExitCode.UNAVAILABLE),
    (NotFound, ExitCode.NOT_FOUND),
    (AccessDenied, ExitCode.DENIED),
    (Conflict, ExitCode.REJECTED),
)


def exit_code_for(error: ClientError) -> ExitCode:
    """Return the exit status that tells a script what kind of error this was."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.FAILED)


@dataclass(frozen=True)
class Output:
    """Where answers go: ``as_json`` prints exactly one JSON value to standard output."""

    as_json: bool = False

    @property
    def console(self) -> Console:
        """The console for people; with JSON it writes to standard error only."""
        return Console(stderr=self.as_json, highlight=False)

    def say(self, text: str) -> None:
        """Print one line for people; nothing with JSON."""
        if not self.as_json:
            self.console.print(text, markup=False)

    def value(self, value: Any) -> None:
        """Print the answer for programs; nothing without JSON."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")

    def rows(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print the same rows as a table, or as a JSON list of objects."""
        if self.as_json:
            self.value(list(rows))
            return
        if not rows:
            self.console.print(f"{title}: none")
            return
        table = Table(title=title, title_justify="left", header_style="bold")
        for column in rows[0]:
            numeric = isinstance(rows[0][column], int | float)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(str(value)) for value in row.values()))
        self.console.print(table)


def bytes_progress(console: Console) -> Progress:
    """Return a progress bar that counts bytes."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def stage_progress(console: Console) -> Progress:
    """Return a progress bar that counts a fraction of a job."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine to its end on a fresh event loop."""
    return asyncio.run(coroutine)


def report_error(error: ClientError, as_json: bool) -> ExitCode:
    """Print an error of ours, for a person or a program, and return the exit status."""
    code = exit_code_for(error)
    if as_json:
        body = {"kind": type(error).__name__, "message": str(error), "exit_code": int(code)}
        if isinstance(error, Rejected):
            body["code"] = str(error.code)
        sys.stderr.write(json.dumps({"error": body}) + "\n")
    else:
        Console(stderr=True, highlight=False).print(
            f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True
        )
    return code
