"""Spans: nothing without a tracer, hostile parents dropped, collectors that are away or silent."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision

from client.errors import ConfigurationError, RefusalCode, Rejected
from client.settings import Settings
from client.telemetry import traces
from client.telemetry.traces import joining, note, span, together
from client.telemetry.tracesampling import AtMost, sampler
from client.telemetry.tracestart import tracing
from tests.collector import Collector, running_collector

pytestmark = pytest.mark.unit

TRACE, STEP = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{STEP}-01"
BAD = (
    "",
    "x",
    GOOD.upper(),
    GOOD[:-1],
    f"{GOOD}0",
    f"{GOOD}-extra",
    f"ff-{TRACE}-{STEP}-01",
    f"00-{'0' * 32}-{STEP}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-{STEP}-zz",
    f"00_{TRACE}_{STEP}_01",
    f" {GOOD[1:]}",
    GOOD.replace("4", "\u0664"),
    f"00-{TRACE}-{STEP}\n01",
    "0" * 55,
    "00-" + "a" * 1_000_000,
    "é" * 55,
    "\x00" * 55,
)


@pytest.fixture
def kept() -> Iterator[InMemorySpanExporter]:
    """A tracer in use, and what it recorded."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with traces.use(provider.get_tracer("test")):
        yield exporter


def _settings(endpoint: str, ratio: float = 1.0) -> Settings:
    return replace(Settings(), otlp_endpoint=endpoint, trace_ratio=ratio)


def test_without_a_tracer_nothing_happens_and_opentelemetry_is_not_imported() -> None:
    program = (
        "import sys\n"
        "import client.ingest.sender\n"
        "from client.telemetry import traces as t\n"
        "with t.span('a', slices=1), t.joining('b', 'x'), t.together([None]):\n"
        "    t.note(job='j')\n"
        "    told = t.traceparent(), t.trace_metadata(), t.current()\n"
        "assert told == (None, (), None), told\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_steps_lie_in_each_other_and_say_what_they_may(kept: InMemorySpanExporter) -> None:
    with joining("study", GOOD, job="j", attempt=2, priority="stat"):
        note(slices=7)
        with span("read"):
            assert (traces.traceparent() or "")[3:35] == TRACE
            ((name, value),) = traces.trace_metadata()
    read, study = kept.get_finished_spans()
    assert read.parent is not None
    assert study.parent is not None
    assert study.context is not None
    assert (format(study.context.trace_id, "032x"), study.parent.span_id) == (TRACE, int(STEP, 16))
    assert read.parent.span_id == study.context.span_id
    assert dict(study.attributes or {}) == {
        "hounsfield.job": "j",
        "hounsfield.attempt": 2,
        "hounsfield.priority": "stat",
        "hounsfield.slices": 7,
    }
    assert read.context is not None
    assert (name, value) == ("traceparent", f"00-{TRACE}-{read.context.span_id:016x}-01")
    assert traces.trace_metadata() == ()


@pytest.mark.parametrize("parent", BAD, ids=range(len(BAD)))
def test_what_is_no_traceparent_begins_a_trace_of_its_own(
    kept: InMemorySpanExporter, parent: str
) -> None:
    with joining("study", parent):
        assert len(traces.traceparent() or "") == traces.TRACEPARENT_CHARS
    (study,) = kept.get_finished_spans()
    assert study.parent is None
    assert study.context is not None
    assert format(study.context.trace_id, "032x") != TRACE


def test_the_first_step_ignores_what_else_is_being_recorded(kept: InMemorySpanExporter) -> None:
    with span("other"), joining("study", None):
        pass
    study, _ = kept.get_finished_spans()
    assert study.parent is None


def test_an_error_is_told_by_its_type_and_code_never_by_its_text(
    kept: InMemorySpanExporter,
) -> None:
    with pytest.raises(Rejected), span("read"):
        raise Rejected(RefusalCode.NO_MODEL, "CANARY^JANE")
    with pytest.raises(ValueError, match="CANARY"), span("read"):
        raise ValueError("CANARY^JANE")
    refused, broken = kept.get_finished_spans()
    assert (refused.status.description, broken.status.description) == ("Rejected", "ValueError")
    assert dict(refused.attributes or {}) == {"hounsfield.code": "NO_MODEL"}
    assert all("CANARY" not in one.to_json() and not one.events for one in (refused, broken))


def test_what_goes_together_lies_under_the_first_and_the_others_link_to_it(
    kept: InMemorySpanExporter,
) -> None:
    with joining("study", GOOD), span("first"):
        first = traces.current()
        with joining("study", None), span("second"):
            second = traces.current()
            with together([None, first, second]):
                told = traces.traceparent()
            with together([None]):
                assert traces.trace_metadata() == ()
    found = {one.name: one for one in kept.get_finished_spans()}
    leader = found["first"].context
    assert leader is not None
    assert told == f"00-{leader.trace_id:032x}-{leader.span_id:016x}-01"
    assert [link.context.span_id for link in found["second"].links] == [leader.span_id]
    assert not found["first"].links


def test_so_many_traces_of_others_a_second_and_no_more() -> None:
    now = [0.0]
    most = AtMost(3, clock=lambda: now[0])

    def taken(times: int) -> int:
        asked = [most.should_sample(None, 1, "x").decision for _ in range(times)]
        return asked.count(Decision.RECORD_AND_SAMPLE)

    assert taken(10) == 3
    now[0] += 1 / 3
    assert taken(10) == 1
    now[0] += 3600
    assert taken(10) == 3


@pytest.mark.parametrize(("flag", "recorded"), [("01", True), ("00", False)])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_parent_decides_and_the_ratio_where_there_is_none(
    ratio: float, flag: str, recorded: bool
) -> None:
    provider = TracerProvider(sampler=sampler(ratio, None), shutdown_on_exit=False)
    with traces.use(provider.get_tracer("test")):
        with joining("study", GOOD[:-2] + flag):
            assert (traces.current() is not None) is recorded
            assert (traces.traceparent() or "")[-2:] == flag
            assert bool(traces.trace_metadata()) is recorded
        with joining("study", None):
            assert (traces.current() is not None) is bool(ratio)


def test_spans_reach_a_collector_with_their_service() -> None:
    with running_collector() as collector:
        with tracing(_settings(f"{collector.endpoint}/"), "worker"), span("study", job="j"):
            pass
        (seen,) = collector.spans
    assert (seen.service, seen.name, seen.attributes) == (
        "worker",
        "study",
        {"hounsfield.job": "j"},
    )


@pytest.mark.parametrize("silent", [False, True], ids=["away", "silent"])
def test_a_collector_that_takes_nothing_costs_no_time_and_one_line(
    silent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if silent:
            held.listen(64)  # connects, and nobody ever answers
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        spent_s: list[float] = []
        with caplog.at_level(logging.INFO), contextlib.ExitStack() as stack:
            stack.enter_context(tracing(_settings(endpoint), "worker"))
            for _ in range(20_000):  # five times what may wait
                began = time.monotonic()
                with span("infer", slices=4):
                    pass
                spent_s.append(time.monotonic() - began)
            time.sleep(3.0)  # long enough for the first failures
            began = time.monotonic()
            stack.close()
            ended_s = time.monotonic() - began
    assert ended_s < 2.5
    # A handful may meet the garbage collector or a busy machine; waiting for a collector is 2 s.
    assert sorted(spent_s)[-20] < 0.1
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in told] == ["client.telemetry.traceexport"]


def test_a_collector_that_comes_back_gets_what_follows(caplog: pytest.LogCaptureFixture) -> None:
    with running_collector() as collector:
        gone = Collector(endpoint=collector.endpoint)
    with (
        tracing(_settings(gone.endpoint), "worker"),
        running_collector(int(gone.endpoint.rpartition(":")[2])) as back,
    ):
        with span("study"):
            pass
        back.until(lambda there: bool(there.named("study")))
    assert not caplog.records


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="OTLP_ENDPOINT"),
        tracing(_settings(endpoint), "x"),
    ):
        pass
