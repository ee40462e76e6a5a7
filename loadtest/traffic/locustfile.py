"""What locust runs: a dispatcher in each generator that starts every study when it is due.

begin (one moment for all generators) ──▶ dispatcher ─▶ greenlet per study ─▶ bridge ─▶ sender

`python -m loadtest.traffic` starts it. locust's own users wait for their answers, so a slow system
would be asked less. Here the number of users says nothing: one per generator, and the schedule
decides; a study that is sent late counts from when it was due.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from locust import LoadTestShape, User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from loadtest.traffic.arrivals import Arrival, share
from loadtest.traffic.bridge import Bridge
from loadtest.traffic.journal import Journal
from loadtest.traffic.payloads import Payloads
from loadtest.traffic.plan import PLAN_VARIABLE, read_plan
from loadtest.traffic.senders import Sender, open_sender

__all__ = ("Dispatcher", "Schedule")

PLAN = read_plan(Path(os.environ[PLAN_VARIABLE]))
HEAD_START_S = 1.0
"""From "begin" to the first study, so that every generator has heard of it."""
_BEGIN, _SHARE_DONE = "begin", "share-done"


class _Progress:
    """What this process knows of the run."""

    def __init__(self) -> None:
        self.began = 0.0
        self.has_begun = Event()
        self.shares_done = 0
        self.payloads: Payloads | None = None


_progress = _Progress()


class Schedule(LoadTestShape):
    """One dispatcher for each generator until every share is done."""

    def tick(self) -> tuple[int, float] | None:
        """See locust."""
        if _progress.shares_done >= PLAN.generators:
            return None
        return PLAN.generators, float(PLAN.generators)


class Dispatcher(User):
    """Sends this generator's share of the schedule."""

    @task
    def send_share(self) -> None:
        """Send all, wait for all, tell the master."""
        _progress.has_begun.wait()
        payloads = _progress.payloads
        assert payloads is not None  # noqa: S101  # made in ``_on_init``
        part = self.environment.runner.worker_index
        arrivals = share(PLAN.arrivals(), part, PLAN.generators)
        path = Path(PLAN.journals) / f"generator-{part}.jsonl"
        with contextlib.ExitStack() as owned:
            journal = owned.enter_context(Journal(path, _progress.began))
            bridge = owned.enter_context(Bridge())
            opened = open_sender(PLAN, payloads, journal)
            sender = bridge.run(opened.__aenter__())
            owned.callback(lambda: bridge.run(opened.__aexit__(None, None, None)))
            self._send_all(arrivals, bridge, sender)
        self.environment.runner.send_message(_SHARE_DONE, {"part": part})
        raise StopUser

    def _send_all(self, arrivals: list[Arrival], bridge: Bridge, sender: Sender) -> None:
        under_way = []
        for arrival in arrivals:
            gevent.sleep(max(0.0, _progress.began + arrival.at_s - time.time()))
            under_way.append(gevent.spawn(self._send, arrival, bridge, sender))
        gevent.joinall(under_way, raise_error=True)

    def _send(self, arrival: Arrival, bridge: Bridge, sender: Sender) -> None:
        outcome, code = bridge.run(sender.send(arrival))
        good = outcome == arrival.expected
        self.environment.events.request.fire(
            request_type=PLAN.target,
            name=f"{arrival.kind} {arrival.priority}",
            response_time=1000 * (time.time() - _progress.began - arrival.at_s),
            response_length=0,
            exception=None if good else RuntimeError(f"{outcome} {code}".strip()),
            context={},
        )


@events.init.add_listener  # type: ignore[untyped-decorator]
def _on_init(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    assert runner is not None  # noqa: S101  # locust makes it before this event
    if not isinstance(runner, MasterRunner):
        kinds = {one.kind for one in PLAN.arrivals()}
        _progress.payloads = Payloads(PLAN.load.seed, kinds)
        runner.register_message(_BEGIN, _on_begin)
    if not isinstance(runner, WorkerRunner):
        runner.register_message(_SHARE_DONE, _on_share_done)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _on_start(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    if runner is not None and not isinstance(runner, WorkerRunner):
        _progress.shares_done = 0
        runner.send_message(_BEGIN, {"at": time.time() + HEAD_START_S})


def _on_begin(environment: Environment, msg: Any, **_: Any) -> None:
    _progress.began = float(msg.data["at"])
    _progress.has_begun.set()


def _on_share_done(environment: Environment, msg: Any, **_: Any) -> None:
    _progress.shares_done += 1
