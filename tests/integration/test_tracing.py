"""One study on the real stack is one trace: sender, gateway, worker and Triton, and no patient."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from client.worker.progress import STAGES
from tests.collector import Collector, SeenSpan, running_collector
from tests.local_stack import LocalStack, running_stack

pytestmark = pytest.mark.integration

SAMPLE = Path(__file__).parents[2] / "samples" / "colin27_mr"
ATTRIBUTES = {"job", "attempt", "priority", "model", "slices", "code"}
_TRITON_EVERY_S = 6.0
TRITON = {"model_name", "model_version", "trace_id", "trace_parent_id"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture(scope="module")
def stack(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with running_stack(
        tmp_path_factory.mktemp("tr"), otlp_endpoint=collector.endpoint, trace_ratio=1.0
    ) as running:
        yield running


@pytest.fixture(scope="module")
def seen(stack: LocalStack, collector: Collector) -> dict[str, list[SeenSpan]]:
    """The spans of the sample study, sent by the command line, by name."""
    job = stack.hounsfield("submit", *sorted(SAMPLE.glob("*.dcm")), "--priority", "stat", "--wait")
    assert job["state"] == "done"
    collector.until(lambda there: bool(there.named("study") and there.named("InferRequest")))
    collector.settle(_TRITON_EVERY_S)
    found: dict[str, list[SeenSpan]] = {}
    for span in collector.spans:
        found.setdefault(span.name, []).append(span)
    return found | {"job": [SeenSpan("", job["id"], "", "", "", {}, (), 0, 0, None)]}


def test_everything_is_of_one_trace_that_the_ledger_knows(
    seen: dict[str, list[SeenSpan]], stack: LocalStack, collector: Collector
) -> None:
    (submit,), (study,) = seen["submit"], seen["study"]
    assert {span.trace for span in collector.spans} == {submit.trace}
    services = {span.service for span in collector.spans}
    assert services == {"sender", "gateway", "worker", "triton"}
    assert study.attributes["hounsfield.job"] == seen["job"][0].name


def test_each_step_lies_under_the_one_that_caused_it(seen: dict[str, list[SeenSpan]]) -> None:
    (submit,), (send,), (taken,), (study,) = (
        seen[name] for name in ("submit", "send", "SubmitStudy", "study")
    )
    assert (submit.parent, send.parent) == ("", submit.span)
    assert (taken.parent, study.parent) == (send.span, taken.span)
    segments = {span.span for span in seen["segment"]}
    assert {span.parent for span in seen["infer"]} == segments
    infers = {span.span for span in seen["infer"]}
    parents = [span.parent for span in seen["InferRequest"]]
    assert set(parents) <= infers
    # Triton 24.10 reads past the end of the parent's name: docs/tracing.md.
    assert len(infers) / 2 < len(parents) <= len(infers)
    requests = {span.span for span in seen["InferRequest"]}
    assert {span.parent for span in seen["brain_mr"]} == requests
    ensembles = {span.span for span in seen["brain_mr"]}
    for step in ("brain_mr_prep", "brain_mr_net"):
        assert {span.parent for span in seen[step]} == ensembles


def test_every_stage_lies_within_its_study(seen: dict[str, list[SeenSpan]]) -> None:
    (study,) = seen["study"]
    for name in STAGES:
        assert seen[name], name
        for span in seen[name]:
            assert span.parent == study.span
            assert study.start_ns <= span.start_ns <= span.end_ns <= study.end_ns
            assert span.failed is None
    first = [min(span.start_ns for span in seen[name]) for name in STAGES]
    assert first == sorted(first)


def test_the_study_says_what_it_was_and_every_slice_is_counted_once(
    seen: dict[str, list[SeenSpan]],
) -> None:
    (study,) = seen["study"]
    slices = len([*SAMPLE.glob("*.dcm")])
    assert study.attributes == {
        "hounsfield.job": seen["job"][0].name,
        "hounsfield.attempt": 1,
        "hounsfield.priority": "stat",
        "hounsfield.model": "brain_mr",
        "hounsfield.slices": slices,
    }
    assert sum(span.attributes["hounsfield.slices"] for span in seen["infer"]) == slices


def test_spans_say_nothing_but_what_is_listed(
    seen: dict[str, list[SeenSpan]], collector: Collector
) -> None:
    assert seen
    said = Counter(name for span in collector.spans for name in span.attributes)
    ours = {name.removeprefix("hounsfield.") for name in said if name.startswith("hounsfield.")}
    theirs = {name.removeprefix("triton.") for name in said if name.startswith("triton.")}
    assert len(said) == len(ours) + len(theirs)
    assert ours <= ATTRIBUTES
    assert theirs <= TRITON


def test_nothing_of_the_patient_or_the_sender_reaches_the_collector(
    seen: dict[str, list[SeenSpan]], stack: LocalStack, collector: Collector
) -> None:
    assert seen
    files = sorted(SAMPLE.glob("*.dcm"))
    canaries = {path.name for path in files} | {stack.settings.tenant}
    for path in files:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        canaries |= {
            str(element.value)
            for element in header.iterall()
            if element.VR in {"UI", "PN", "LO", "SH", "DA", "TM"} and len(str(element.value)) > 5
        }
    assert len(canaries) > len(files)
    carried = b"\n".join(collector.raw)
    assert not [word for word in canaries if re.search(rf"\b{re.escape(word)}\b".encode(), carried)]
