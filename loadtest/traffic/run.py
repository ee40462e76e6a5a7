"""One load test from the stack's start to its outcome.

stack ▸ generators ‖ observer, faults ▸ settle ▸ compare with the ledger ▸ judge ▸ files in OUT
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from client.errors import ConfigurationError
from client.settings import Settings, load_settings
from client.stack import control
from client.stack.scratch import scratch_stack
from loadtest.machine import describe_machine
from loadtest.report import Machine
from loadtest.traffic.accounts import Accounts, count_repeated, settle
from loadtest.traffic.faults import Fault
from loadtest.traffic.generators import Generators, start_generators
from loadtest.traffic.journal import Generator, beginning, read_journals
from loadtest.traffic.observer import Observation, observe
from loadtest.traffic.plan import Plan, write_plan
from loadtest.traffic.shapes import Load

__all__ = ("Options", "Run", "open_system", "run_load")

Announce = Callable[[str], None]
_POLL_S = 0.25


@dataclass(frozen=True)
class Options:
    """How to run a load.

    Attributes:
        load: What is sent.
        out: Folder of everything that is written.
        host: host:port of a running gateway; "" starts a local stack.
        keys: Folder of that gateway's sender; "": as the settings say.
        tenant: Who sends; "": as the settings say.
        generators: Processes that send.
        target: As for ``Plan``.
        triton_url: As for ``Plan``; "": the local stack's.
        faults: What is killed.
        settle_s: Longest wait for studies that are open at the end.
        model_repository: Of a local stack; "": the project's.
        locust_options: Handed on to locust, as for its page.
    """

    load: Load
    out: Path
    host: str = ""
    keys: str = ""
    tenant: str = ""
    generators: int = 1
    target: str = "ingest"
    triton_url: str = ""
    faults: tuple[Fault, ...] = ()
    settle_s: float = 600.0
    model_repository: str = ""
    locust_options: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether a stack of our own is started: nothing that runs is named."""
        return not self.host and not (self.target == "triton" and self.triton_url)

    @property
    def where(self) -> str:
        """What is sent to, for people."""
        return "local stack" if self.is_local else self.host or self.triton_url


@dataclass(frozen=True)
class Run:
    """What came of a load.

    Attributes:
        options: How it ran.
        started_at: When the load began, UTC.
        seconds: From then until nothing was open any more.
        accounts: Studies, and what the system held of them.
        generators: What sending itself took.
        machine: Where.
        seen: Queue depths and faults.
    """

    options: Options
    started_at: str
    seconds: float
    accounts: Accounts
    generators: tuple[Generator, ...]
    machine: Machine
    seen: Observation = field(default_factory=Observation)


@contextlib.contextmanager
def open_system(options: Options) -> Iterator[Settings]:
    """Start a local stack, or say how to call what runs.

    Raises:
        ConfigurationError: A part did not start, or the gateway's keys are not there.
    """
    if not options.is_local:
        settings = load_settings()
        yield replace(
            settings,
            gateway=options.host or settings.gateway,
            keys=options.keys or settings.keys,
            tenant=options.tenant or settings.tenant,
        ).resolved()
        return
    with (
        TemporaryDirectory(prefix="hounsfield-load-") as home,
        scratch_stack(Path(home) / "s", model_repository=options.model_repository) as settings,
    ):
        yield settings


async def run_load(options: Options, settings: Settings, announce: Announce) -> Run:
    """Send a load to a running system and see what becomes of it.

    Raises:
        ConfigurationError: Something is missing, or nothing would be sent.
        Transient: A generator broke.
    """
    plan = _plan(options, settings)
    path = _prepare(options.out, plan)
    seen = Observation()
    with start_generators(
        path, settings, options.generators, options.out, options.locust_options
    ) as generators:
        began = await _until_sent(options, settings, generators, seen, announce)
    studies, cost = read_journals(plan.arrivals(), Path(plan.journals))
    announce("waiting for what is still open")
    accounts = await settle(settings, studies, options.settle_s)
    moment = datetime.fromtimestamp(began, UTC)
    if options.target == "ingest" and options.is_local:
        repeated = await count_repeated(settings, accounts.studies, moment)
        accounts = replace(accounts, repeated=repeated)
    return Run(
        options=options,
        started_at=moment.isoformat(timespec="seconds"),
        seconds=time.time() - began,
        accounts=accounts,
        generators=cost,
        machine=describe_machine(options.where),
        seen=seen,
    )


def _prepare(out: Path, plan: Plan) -> Path:
    """Make room for the journals, without those of an earlier run; return the plan's file."""
    journals = Path(plan.journals)
    journals.mkdir(parents=True, exist_ok=True)
    for old in journals.glob("*.jsonl"):
        old.unlink()
    path = out / "plan.json"
    write_plan(plan, path)
    return path


def _plan(options: Options, settings: Settings) -> Plan:
    url = options.triton_url
    if options.target == "triton" and not url:
        if options.host:
            raise ConfigurationError(
                "Expected --triton-url: a gateway does not say where Triton is."
            )
        url = next(one.address for one in control.status(settings) if one.name == "triton")
    return Plan(
        options.load, options.generators, str(options.out / "journals"), options.target, url
    )


async def _until_sent(
    options: Options,
    settings: Settings,
    generators: Generators,
    seen: Observation,
    announce: Announce,
) -> float:
    """Wait for the generators, looking at the queue meanwhile; return when the load began."""
    journals = options.out / "journals"
    began: float | None = None

    def now_s() -> float:
        return -1.0 if began is None else time.time() - began

    watching = None
    if options.is_local:
        watching = asyncio.create_task(observe(settings, options.faults, now_s, seen))
    try:
        while generators.are_running():
            began = began or beginning(journals)
            announce(_progress(now_s(), seen))
            await asyncio.sleep(_POLL_S)
    finally:
        if watching is not None:
            watching.cancel()
            results = await asyncio.gather(watching, return_exceptions=True)
            _raise_first(results)
    began = began or beginning(journals)
    if began is None:
        raise ConfigurationError(f"Nothing was sent; locust says why: {generators.log}.")
    return began


def _raise_first(results: Sequence[object]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result


def _progress(now_s: float, seen: Observation) -> str:
    if now_s < 0:
        return "starting the generators"
    last = seen.depths[-1] if seen.depths else None
    queued = f", {last.stat + last.routine} in the queue" if last else ""
    struck = f", killed: {', '.join(one.part for one in seen.struck)}" if seen.struck else ""
    return f"{now_s:.0f} s{queued}{struck}"
