"""Costs: exact prices, no grouping that loses or doubles anything, pages that run nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.costs.amounts import Amounts, Engine
from client.costs.entries import Period, entries
from client.costs.grouping import Grouping, Report, make_report
from client.costs.prices import PriceList, load_prices, parse_prices
from client.costs.spreadsheet import as_csv
from client.costs.tables import as_json, rounded, rows, total_row
from client.costs.webpage import as_html
from client.errors import ConfigurationError
from client.jobs import JobState
from client.ledger.records import AttemptCost
from client.ledger.spent import JobSpending, SpentAttempt

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "prices.example.yaml"
START = datetime(2026, 10, 20, tzinfo=UTC)
YEAR = Period(START - timedelta(days=365), START + timedelta(days=365))

PRICES = """
currency: EUR
engine_second: {gpu: 0.001, cpu: 0.0002, TensorRT int8: 0.0005}
cpu_second: 0.00001
gb_month: 0.02
gb_received: 0
gb_sent: 0.1
gb_fetched: 0.01
idle_factor: 1.5
"""


def cost(model: str = "brain_mr", **changes: int | str) -> AttemptCost:
    """A row but for these columns."""
    plain: dict[str, int | str] = {
        "model": model,
        "version": "1",
        "engine": "TensorRT fp16" if model else "",
        "device": "gpu" if model else "",
        "slices": 10 if model else 0,
        "engine_us": 2_000_000 if model else 0,
        "cpu_us": 3_000_000,
        "fetched_bytes": 5_000,
        "stored_bytes": 7_000,
    }
    return AttemptCost(**plain | changes)  # type: ignore[arg-type]


def spending(*attempts: SpentAttempt, **changes: object) -> JobSpending:
    """A job of which nothing else was deleted or fetched, but for these fields."""
    plain: dict[str, object] = {
        "id": "job",
        "tenant": "radiology",
        "created_at": START,
        "study_bytes": 10**9,
        "study_gone_at": None,
        "result_bytes": 0,
        "result_at": None,
        "result_gone_at": None,
        "fetched_at": (),
        "ended": len({one.attempt for one in attempts}),
        "attempts": attempts,
    }
    return JobSpending(**plain | changes)  # type: ignore[arg-type]


def attempt(number: int, model: str = "brain_mr", **changes: int | str) -> SpentAttempt:
    return SpentAttempt(
        number, START + timedelta(minutes=number), JobState.DONE, cost(model, **changes)
    )


async def each(jobs: Sequence[JobSpending]) -> AsyncIterator[JobSpending]:
    for job in jobs:
        yield job


def added(job: JobSpending, period: Period = YEAR) -> Amounts:
    return sum((entry.amounts for entry in entries(job, period)), Amounts())


# Prices.


def test_a_bill_is_exact() -> None:
    used = Amounts(
        engine_us={Engine("gpu", "TensorRT fp16"): 1_500_000, Engine("gpu", "TensorRT int8"): 1},
        cpu_us=7,
        received_bytes=10**12,
        sent_bytes=3,
        fetched_bytes=10**9,
        kept_byte_us=10**9 * 2_629_800 * 10**6,
    )
    bill = parse_prices(PRICES).bill(used)
    assert bill.engine == Fraction(3, 2) * (Fraction(15, 10_000) + Fraction(5, 10**10))
    assert bill.cpu == Fraction(3, 2) * Fraction(7, 10**11)
    assert bill.storage == Fraction(2, 100)
    assert bill.transfer == Fraction(3, 10**10) + Fraction(1, 100)
    assert bill.total == bill.engine + bill.cpu + bill.storage + bill.transfer


def test_an_engines_name_goes_before_its_device() -> None:
    prices = parse_prices(PRICES)
    by_name = prices.bill(Amounts(engine_us={Engine("gpu", "TensorRT int8"): 10**6}))
    by_device = prices.bill(Amounts(engine_us={Engine("gpu", "TensorRT fp8"): 10**6}))
    assert (by_name.engine, by_device.engine) == (Fraction(75, 10**5), Fraction(150, 10**5))


def test_an_engine_without_a_price_is_not_free() -> None:
    prices = parse_prices(PRICES.replace("cpu: 0.0002, ", ""))
    with pytest.raises(ConfigurationError, match="'OpenVINO f32', nor for 'cpu'"):
        prices.bill(Amounts(engine_us={Engine("cpu", "OpenVINO f32"): 1}))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("currency: EUR", "currency: Euro", "three letters"),
        ("gb_sent: 0.1", "gb_sent: -0.1", "gb_sent: expected a decimal"),
        ("gb_sent: 0.1", "gb_sent: .inf", "gb_sent: expected a decimal"),
        ("gb_sent: 0.1", "gb_sent: NaN", "gb_sent: expected a decimal"),
        ("gb_sent: 0.1", "gb_sent: 0,1", "gb_sent: expected a decimal"),
        ("gb_sent: 0.1", "gb_sent: [1]", "gb_sent: expected a decimal"),
        ("gb_sent: 0.1", "gb_sent:", "gb_sent: expected a decimal"),
        ("gb_sent: 0.1", "gb_snet: 0.1", "unknown: gb_snet, missing: gb_sent"),
        ("gb_sent: 0.1", "gb_sent: 0.1\ngb_sent: 0.2", "gb_sent is there twice"),
        ("idle_factor: 1.5", "idle_factor: 0.9", "at least 1"),
        ("{gpu: 0.001, cpu: 0.0002, TensorRT int8: 0.0005}", "0.1", "by engine or device"),
        ("{gpu: 0.001, cpu: 0.0002, TensorRT int8: 0.0005}", "{gpu: x}", "engine_second: gpu"),
        ("{gpu: 0.001, cpu: 0.0002, TensorRT int8: 0.0005}", "{gpu: 1, gpu: 2}", "gpu is there"),
        ("currency: EUR", "- a\n- b", "not the YAML"),
        ("currency: EUR", "currency: !!python/name:os.system", "three letters"),
    ],
)
def test_a_wrong_price_list_is_refused(old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        parse_prices(PRICES.replace(old, new))


def test_a_price_list_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_bytes(b"\xff\xfe")
    for name in ("prices.yaml", "none.yaml"):
        with pytest.raises(ConfigurationError, match="Cannot read the price list"):
            load_prices(tmp_path / name)


def test_the_example_is_a_price_list() -> None:
    prices = load_prices(EXAMPLE)
    assert (prices.currency, prices.gb_month) == ("EUR", Fraction(21, 1000))


# Entries.


def test_every_attempt_counts_once_however_many_models_it_has() -> None:
    used = added(spending(attempt(1), attempt(2, "a"), attempt(2, "b"), ended=4))
    assert (used.studies, used.attempts, used.unaccounted) == (1, 2, 2)
    assert (used.slices, used.cpu_us, used.fetched_bytes) == (30, 9_000_000, 15_000)
    assert used.engine_us == {Engine("gpu", "TensorRT fp16"): 6_000_000}


def test_an_object_costs_while_it_lies_there_a_part_for_each_month() -> None:
    until = START + timedelta(days=30)
    job = spending(study_gone_at=until, result_bytes=10, result_at=START, result_gone_at=until)
    kept = [entry for entry in entries(job, YEAR) if entry.amounts.kept_byte_us]
    day_us = 86_400 * 10**6
    october, november = 12 * day_us, 18 * day_us
    assert [entry.amounts.kept_byte_us for entry in kept] == [
        10**9 * october,
        10**9 * november,
        10 * october,
        10 * november,
    ]
    assert [entry.at for entry in kept[:2]] == [START, datetime(2026, 11, 1, tzinfo=UTC)]


def test_what_belongs_to_the_whole_job_goes_to_the_model_of_most_slices() -> None:
    job = spending(
        attempt(1, "other", slices=99),
        attempt(2, "a", slices=1),
        attempt(2, "b", slices=2),
        result_bytes=5,
        fetched_at=(START, START),
    )
    sent = {entry.model: entry.amounts for entry in entries(job, YEAR) if entry.amounts.sent_bytes}
    assert set(sent) == {"b"}
    assert added(job).sent_bytes == 10


def test_only_what_lies_in_the_period_counts() -> None:
    job = spending(attempt(1), result_bytes=5, fetched_at=(START + timedelta(days=2),))
    later = Period(START + timedelta(days=1), START + timedelta(days=3))
    used = added(job, later)
    assert (used.studies, used.attempts, used.received_bytes, used.sent_bytes) == (0, 0, 0, 5)
    assert used.kept_byte_us == 10**9 * 2 * 86_400 * 10**6


# Groupings: whole numbers in, so that equal means equal.

moments = st.integers(0, 400 * 86_400).map(lambda seconds: START + timedelta(seconds=seconds))
sizes = st.integers(0, 10**12)
attempts = st.builds(
    SpentAttempt,
    st.integers(1, 4),
    moments,
    st.sampled_from(JobState),
    st.builds(
        AttemptCost,
        model=st.sampled_from(["", "a", "b"]),
        version=st.just("1"),
        engine=st.sampled_from(["TensorRT fp16", "TensorRT int8"]),
        device=st.sampled_from(["gpu", "cpu"]),
        slices=st.integers(0, 1000),
        engine_us=sizes,
        cpu_us=sizes,
        fetched_bytes=sizes,
        stored_bytes=sizes,
    ),
)
jobs = st.builds(
    JobSpending,
    id=st.sampled_from("jklmn"),
    tenant=st.sampled_from(["north", "south"]),
    created_at=moments,
    study_bytes=sizes,
    study_gone_at=st.none() | moments,
    result_bytes=sizes,
    result_at=st.none() | moments,
    result_gone_at=st.none() | moments,
    fetched_at=st.lists(moments, max_size=3).map(tuple),
    ended=st.integers(0, 5),
    attempts=st.lists(
        attempts, max_size=4, unique_by=lambda one: (one.attempt, one.cost.model)
    ).map(lambda found: tuple(sorted(found, key=lambda one: (one.attempt, one.cost.model)))),
)


@given(st.lists(jobs, max_size=6), moments)
async def test_no_grouping_and_no_cut_in_time_loses_or_doubles_money(
    found: list[JobSpending], cut: datetime
) -> None:
    prices = parse_prices(PRICES)
    whole = Period(START, START + timedelta(days=500))
    reports = [await make_report(each(found), whole, by) for by in Grouping]
    totals = [prices.bill(report.total).total for report in reports]
    assert len(set(totals)) == 1
    for report in reports:
        lines = [prices.bill(amounts).total for amounts in report.lines.values()]
        assert sum(lines, Fraction(0)) == totals[0]
    sites = [await make_report(each(found), whole, Grouping.STUDY, s) for s in ("north", "south")]
    assert sum(prices.bill(report.total).total for report in sites) == totals[0]
    halves = [Period(whole.since, cut), Period(cut, whole.until)]
    parts = [await make_report(each(found), half, Grouping.MODEL) for half in halves]
    assert sum(prices.bill(report.total).total for report in parts) == totals[0]
    assert parts[0].total + parts[1].total == reports[0].total


# What people see.

EVIL = "=HYPERLINK(\"http://x\")<script>alert('1')</script>"


async def report_of(*found: JobSpending, by: Grouping = Grouping.SITE) -> Report:
    return await make_report(each(found), YEAR, by)


@pytest.fixture
def prices() -> PriceList:
    return parse_prices(PRICES)


async def test_csv_is_rfc_4180_and_no_formula(prices: PriceList) -> None:
    report = await report_of(spending(attempt(1), tenant=EVIL), spending(tenant='a,"b"\nc'))
    text = as_csv([*rows(report, prices), total_row(report, prices)])
    assert text.count("\r\n") == 4
    table = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert [row["site"] for row in table] == [f"'{EVIL}", 'a,"b"\nc', "total"]
    assert table[0]["gpu_seconds"] == table[2]["gpu_seconds"] == "2.000"
    assert table[0]["engine_eur"] == "0.003000"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_text_that_a_spreadsheet_would_run_gets_a_quote(start: str) -> None:
    text = as_csv([{"site": f"{start}1", "total": -1}])
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row == {"site": f"'{start}1", "total": "-1"}


async def test_a_page_escapes_names_and_loads_nothing(prices: PriceList) -> None:
    page = as_html(await report_of(spending(attempt(1), tenant=EVIL)), prices)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2  # the table's, and the bar's
    assert "default-src 'none'" in page
    assert not any(word in page for word in ("src=", "href=", "url("))
    assert page.count("<rect ") == 1
    assert "ended without a word" not in page


async def test_a_page_says_what_is_missing_and_needs_no_prices() -> None:
    page = as_html(await report_of(spending(ended=2)), None)
    assert "Attempts that ended without a word: 2;" in page
    assert "<rect" not in page  # nothing to compare


async def test_json_keeps_every_digit(prices: PriceList) -> None:
    report = await report_of(spending(attempt(1, engine_us=1_234_567)), by=Grouping.MODEL)
    told = as_json(report, prices)
    (line,) = told["lines"]
    assert line["model"] == "brain_mr"
    assert line["engines"] == [{"device": "gpu", "engine": "TensorRT fp16", "seconds": "1.235"}]
    assert told["total"]["total_eur"] == line["total_eur"]
    assert told["currency"] == "EUR"


def test_rounding_is_to_even() -> None:
    assert [str(rounded(Fraction(n, 2000), 3)) for n in (1, 3)] == ["0.000", "0.002"]
