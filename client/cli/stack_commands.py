"""up, status, down: the local stack from the command line."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from client.cli.console import ExitCode, Output
from client.settings import load_settings
from client.stack import control
from client.stack.supervisor import ServiceStatus

__all__ = ("down", "status", "up")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def up(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and stop everything on Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the local stack: queue, Triton, gateway and worker, supervised.

    Keys and certificates are made on the first start. What dies is restarted; nothing outlives
    the supervisor, not even after kill -9.
    """
    settings = load_settings()
    output = Output(as_json)
    if foreground:
        from client.stack.local import run_local_stack

        output.say(f"Running in {settings.home}; Ctrl-C stops everything.")
        run_local_stack(settings)
        return
    with output.console.status("Starting …") as spinner:
        supervisor = control.launch(settings)
        services = control.until_ready(
            settings, supervisor, lambda now: spinner.update(_summary(now))
        )
    _show(output, services)
    output.say(f"Send a study:  hounsfield submit PATH --wait    (home: {settings.home})")


def status(as_json: JsonOption = False) -> None:
    """Show what runs, since when, and how often it was restarted.

    Exit code 5 when the stack is down or a part of it is not ready.
    """
    settings = load_settings()
    services = control.status(settings)
    _show(Output(as_json), services)
    if not services or any(service.state != "ready" for service in services):
        raise typer.Exit(ExitCode.UNAVAILABLE)


def down(as_json: JsonOption = False) -> None:
    """Stop the local stack; studies that are not finished go on at the next start."""
    settings = load_settings()
    output = Output(as_json)
    with output.console.status("Stopping …"):
        stopped = control.stop(settings)
    output.say("Stopped." if stopped else f"No stack runs in {settings.home}.")
    output.value({"stopped": stopped})


def _show(output: Output, services: tuple[ServiceStatus, ...]) -> None:
    output.rows(
        "Local stack",
        [
            {
                "service": service.name,
                "state": service.state,
                "pid": service.pid,
                "address": service.address,
                "start s": service.start_s,
                "up s": round(time.time() - service.since),
                "restarts": service.restarts,
            }
            for service in services
        ],
    )


def _summary(services: tuple[ServiceStatus, ...]) -> str:
    return "Starting: " + ", ".join(f"{service.name} {service.state}" for service in services)
