"""The model against the published benchmark of the real stack, made on a quiet machine.

From the whole way with one and two studies in flight the model predicts the one with four, where
three share the worker and the fourth waits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.jobs import Priority
from loadtest.loads import WHOLE
from loadtest.report import read_report
from loadtest.simulation.cluster import PodSettings
from loadtest.simulation.day import simulate_day
from loadtest.simulation.hospital import Arrival
from loadtest.simulation.policies import Fixed
from loadtest.simulation.service import KindTimes, ServiceTimes
from loadtest.simulation.validation import MOST_ERROR
from loadtest.summary import Row, summarise

pytestmark = pytest.mark.unit

REPORT = Path(__file__).parents[2] / "docs" / "performance" / "full.json"
FULL, _ = read_report(REPORT)
SLICES, PLACES, WEIGHT = FULL.workload.slices, 3, 4.0


def whole_way(precision: str) -> dict[int, Row]:
    """Rows of the whole way by studies in flight."""
    rows = zip(FULL.distinct_loads, summarise(FULL), strict=True)
    return {
        load.in_flight: row
        for load, row in rows
        if (load.way, load.precision) == (WHOLE, precision)
    }


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_four_studies_at_once_take_what_the_benchmark_measured(precision: str) -> None:
    rows = whole_way(precision)
    alone_s = rows[1].latency_p50_ms / 1000
    rates = {many: rows[many].slices_per_s / SLICES for many in (1, 2)}
    kind = KindTimes("mr", SLICES, 1, alone_s, False, rates, {}, {})
    times = ServiceTimes("the benchmark", False, (kind,), WEIGHT, PLACES)
    day = [Arrival(0.0, "mr", SLICES, Priority.ROUTINE) for _ in range(4)]
    found = simulate_day(day, times, PodSettings(PLACES, 0.0), Fixed(1), 0.0).turnarounds_s()
    for quantile, measured_ms in ((50, rows[4].latency_p50_ms), (99, rows[4].latency_p99_ms)):
        predicted_s = float(np.percentile(found, quantile))
        assert predicted_s == pytest.approx(measured_ms / 1000, rel=MOST_ERROR)
