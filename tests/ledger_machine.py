"""The life of jobs as a model of its own, against which the real ledger is driven at random."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from client.errors import Conflict, LeaseLost, RefusalCode, WrongState
from client.jobs import TERMINAL_STATES, TRANSITIONS, Actor, Job, JobState, Priority
from client.ledger.ledger import Ledger
from client.ledger.records import NewJob
from client.ledger.service import fingerprint
from tests.ledgers import AUDIT_KEY, Clock, new_job, result_of, served

__all__ = ("LedgerMachine",)

T = TypeVar("T")
MAX_ATTEMPTS = 3
LEASE_S = 30.0
FOR_YEARS_S = 1e8
DELAY_S = 7.0
NO_JOB: Any = multiple()
PERSON = Actor("op.y", "operator")
R, Q, RUN, DONE = JobState.RECEIVED, JobState.QUEUED, JobState.RUNNING, JobState.DONE
FAILED, REJECTED, DEAD, CANCELLED = (
    JobState.FAILED,
    JobState.REJECTED,
    JobState.DEAD,
    JobState.CANCELLED,
)


@dataclass
class Model:
    """What must be true of one job; written without a look at the ledger's code."""

    upload: str
    content: str
    content_sha256: str
    priority: Priority
    state: JobState = R
    made_with: str = ""
    attempt: int = 0
    tries: int = 0
    due: datetime = datetime.min
    lease_end: datetime = datetime.min
    code: str = ""
    actions: list[str] = field(default_factory=lambda: ["job.received"])

    def ends(self, state: JobState, action: str, code: str = "") -> None:
        """Come to a terminal state."""
        self.state, self.code = state, code
        self.actions.append(action)
        if state is not DONE:
            self.content = ""


class LedgerMachine(RuleBasedStateMachine):
    """Drives one ledger; each machine is a tenant of its own, so they may share a database."""

    steps_taken: ClassVar[int] = 0

    jobs = Bundle("jobs")
    attempts = Bundle("attempts")

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.tenant = f"t-{uuid.uuid4()}"
        self.models: dict[str, Model] = {}
        self.touched: set[str] = set()
        self.ledger = Ledger(url, AUDIT_KEY, max_attempts=MAX_ATTEMPTS, clock=self.clock)
        self.wait(self.ledger.__aenter__())
        self.serving = ""
        self.serve(0)  # the machine before may have served something

    def teardown(self) -> None:
        """Check the audit trail and close."""
        try:
            for job_id, model in self.models.items():
                events = self.wait(self.ledger.events(job_id))
                assert [event.action for event in events] == model.actions
                for before, after in pairwise(events):
                    if before.state != after.state or after.action == "job.claimed":
                        assert JobState(after.state) in TRANSITIONS[JobState(before.state)]
            (report,) = self.wait(self.ledger.verify_chains(self.tenant))
            if self.models:
                assert report.faults == ()
        finally:
            self.wait(self.ledger.__aexit__(None, None, None))
            self.runner.close()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a call of the ledger."""
        return self.runner.run(work)

    @property
    def now(self) -> datetime:
        """The machine's time."""
        return self.clock.now

    @rule(version=st.integers(0, 2))
    def serve(self, version: int) -> None:
        """The worker has this version of its model from now on, or none."""
        models = [served(version)] if version else []
        self.wait(self.ledger.serve("w", models, FOR_YEARS_S))
        self.serving = fingerprint(models)

    def answers(self, model: Model, priority: Priority) -> bool:
        """Whether a job that has the content's name answers for another study of it."""
        fresh = model.made_with != "" and model.made_with == self.serving
        if priority is Priority.STAT:
            coming = model.state in (R, Q) or (model.state is RUN and fresh)
            return model.priority is Priority.STAT and coming
        return fresh or model.state in (R, Q, RUN)

    @rule(
        target=jobs,
        upload=st.integers(0, 4),
        content=st.integers(0, 3),
        priority=st.sampled_from(Priority),
    )
    def submit(self, upload: int, content: int, priority: Priority) -> Any:
        """Send a study; both names are drawn from few, so that they meet again."""
        new = self.study(upload, content, priority)
        earlier = next((i for i, m in self.models.items() if m.upload == new.upload_id), None)
        keys = {model.content: job_id for job_id, model in self.models.items()}
        same = keys.get(new.content_key) if new.content_key else None
        if earlier and self.models[earlier].content_sha256 != new.content_sha256:
            self.refused(self.ledger.submit(new), Conflict)
            return NO_JOB
        if same and not earlier and not self.answers(self.models[same], priority):
            self.models[same].content, same = "", None
        job, created = self.wait(self.ledger.submit(new))
        assert (job.id, created) == (earlier or same or new.id, not (earlier or same))
        if created:
            self.models[new.id] = Model(
                new.upload_id, new.content_key, new.content_sha256, priority, due=self.now
            )
        self.touched.add(job.id)
        return job.id

    def study(self, upload: int, content: int, priority: Priority) -> NewJob:
        """A study to send; content 0 asks to be processed again."""
        return new_job(
            tenant=self.tenant,
            upload_id=f"{upload:036}",
            content_key=f"{content:064}" if content else "",
            content_sha256=f"{content:064}",
            priority=priority,
        )

    @rule(job_id=jobs)
    def mark_queued(self, job_id: str) -> None:
        """The queue was told."""
        model = self.models[job_id]
        self.wait(self.ledger.mark_queued(job_id))
        if model.state is R:
            model.state = Q
            model.actions.append("job.queued")
        self.touched.add(job_id)

    @rule(target=attempts, job_id=jobs)
    def claim(self, job_id: str) -> Any:
        """A worker takes it, if it may."""
        model = self.models[job_id]
        free = self.is_free(model)
        self.touched.add(job_id)
        if not free or model.tries >= MAX_ATTEMPTS:
            self.refused(self.ledger.claim(job_id, "w", LEASE_S), LeaseLost)
            if free:
                model.ends(DEAD, "job.dead", "RETRIES_EXHAUSTED")
            return NO_JOB
        job = self.wait(self.ledger.claim(job_id, "w", LEASE_S))
        model.state = RUN
        model.attempt += 1
        model.tries += 1
        model.made_with = self.serving
        model.lease_end = self.now + timedelta(seconds=LEASE_S)
        model.actions.append("job.claimed")
        return job

    def is_free(self, model: Model) -> bool:
        """Whether nobody has the job and its time has come."""
        if model.state in (R, Q):
            return model.due <= self.now
        return model.state is RUN and model.lease_end <= self.now

    def holds(self, job: Job) -> bool:
        """Whether an attempt may still write: the fence."""
        model = self.models[job.id]
        return model.state is RUN and model.attempt == job.attempt

    @rule(job=attempts)
    def heartbeat(self, job: Job) -> None:
        """A worker is alive."""
        beat = self.ledger.heartbeat(job, "infer", 0.5, LEASE_S)
        if not self.holds(job):
            self.refused(beat, LeaseLost)
            return
        self.wait(beat)
        self.models[job.id].lease_end = self.now + timedelta(seconds=LEASE_S)

    @rule(job=attempts, how=st.sampled_from(["finish", "reject", "fail"]))
    def end(self, job: Job, how: str) -> None:
        """A worker comes to an end with it."""
        calls: dict[str, tuple[Callable[[], Coroutine[Any, Any, Job]], JobState, str, str]] = {
            "finish": (lambda: self.ledger.finish(job, result_of(job)), DONE, "job.finished", ""),
            "reject": (
                lambda: self.ledger.reject(job, RefusalCode.COLOUR, "x"),
                REJECTED,
                "job.rejected",
                "COLOUR",
            ),
            "fail": (
                lambda: self.ledger.fail(job, RefusalCode.TIMED_OUT, "x"),
                FAILED,
                "job.failed",
                "TIMED_OUT",
            ),
        }
        call, state, action, code = calls[how]
        self.touched.add(job.id)
        if not self.holds(job):
            self.refused(call(), LeaseLost)
            return
        self.wait(call())
        model = self.models[job.id]
        model.ends(state, action, code)
        if state is DONE and model.made_with != self.serving:
            model.made_with = ""

    @rule(job=attempts, delay=st.sampled_from([0.0, DELAY_S]))
    def retry(self, job: Job, delay: float) -> None:
        """A worker met a failure that may heal."""
        model = self.models[job.id]
        call = self.ledger.retry(job, "x", delay)
        self.touched.add(job.id)
        if not self.holds(job):
            self.refused(call, LeaseLost)
            return
        self.wait(call)
        if model.tries >= MAX_ATTEMPTS:
            model.ends(DEAD, "job.dead", "RETRIES_EXHAUSTED")
        else:
            model.state, model.due = Q, self.now + timedelta(seconds=delay)
            model.actions.append("job.retried")

    @rule(job=attempts)
    def release(self, job: Job) -> None:
        """A worker is told to stop."""
        model = self.models[job.id]
        self.touched.add(job.id)
        if not self.holds(job):
            self.refused(self.ledger.release(job), LeaseLost)
            return
        self.wait(self.ledger.release(job))
        model.state, model.due = Q, self.now
        model.tries -= 1
        model.actions.append("job.released")

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        """The sender takes it back."""
        model = self.models[job_id]
        self.wait(self.ledger.cancel(self.tenant, job_id))
        if model.state not in TERMINAL_STATES:
            model.ends(CANCELLED, "job.cancelled")
        self.touched.add(job_id)

    @rule(job_id=jobs)
    def retry_by_hand(self, job_id: str) -> None:
        """A person wants it tried again."""
        model = self.models[job_id]
        call = self.ledger.retry_by_hand(self.tenant, job_id, PERSON)
        self.touched.add(job_id)
        if model.state not in (DEAD, FAILED, REJECTED) or model.code in ("ERASED", "EXPIRED"):
            self.refused(call, WrongState)
            return
        self.wait(call)
        model.state, model.code, model.tries, model.due = Q, "", 0, self.now
        model.actions.append("job.retried_by_hand")

    @rule(job_id=jobs)
    def erase(self, job_id: str) -> None:
        """The patient is erased."""
        model = self.models[job_id]
        count, _ = self.wait(self.ledger.erase(self.tenant, [job_id], PERSON, "x"))
        assert count == (model.code != "ERASED")
        if count:
            state = model.state if model.state in TERMINAL_STATES else FAILED
            model.ends(state, "job.erased", "ERASED")
            model.content = ""
        self.touched.add(job_id)

    @rule(job_id=jobs)
    def expire(self, job_id: str) -> None:
        """Its time is over."""
        model = self.models[job_id]
        expired = self.wait(self.ledger.expire([job_id]))
        may = model.state in TERMINAL_STATES and model.code not in ("ERASED", "EXPIRED")
        assert len(expired) == may
        if may:
            model.ends(model.state, "job.expired", "EXPIRED")
            model.content = ""
        self.touched.add(job_id)

    @rule()
    def exhaust(self) -> None:
        """The reconciler looks for what no worker came back for."""
        dead = {job.id for job in self.wait(self.ledger.exhaust())} & set(self.models)
        expected = {
            job_id
            for job_id, model in self.models.items()
            if self.is_free(model) and model.tries >= MAX_ATTEMPTS
        }
        assert dead == expected
        for job_id in dead:
            self.models[job_id].ends(DEAD, "job.dead", "RETRIES_EXHAUSTED")
        self.touched |= dead

    @rule(seconds=st.sampled_from([1.0, DELAY_S + 1, LEASE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        """Let leases lapse and delays end."""
        self.clock.move(seconds)

    @invariant()
    def what_was_touched_is_as_the_model_says(self) -> None:
        """State, fence and code of the jobs of the last step."""
        type(self).steps_taken += 1
        if not self.touched:
            return
        found = self.wait(self.ledger.known(self.touched))
        for job_id in self.touched:
            job, model = found[job_id], self.models[job_id]
            assert (job.state, job.attempt, job.code) == (model.state, model.attempt, model.code)
            assert (job.result_key != "") == (model.state is DONE)
            assert job.made_with == model.made_with
            assert (job.lease_expires_at is not None) == (model.state is RUN)
        self.touched.clear()

    def refused(self, call: Coroutine[Any, Any, Any], error: type[Exception]) -> None:
        """Expect an error of this class."""
        try:
            self.wait(call)
        except error:
            return
        raise AssertionError(f"expected {error.__name__}")
