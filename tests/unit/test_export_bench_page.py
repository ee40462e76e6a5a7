"""The performance page shows the committed record of the engines, and no other figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.benchmark.page import bench_markdown
from export.benchmark.records import read_bench

pytestmark = pytest.mark.unit

DOCS = Path(__file__).parents[2] / "docs"
BEGIN = "<!-- engines: the table of `python -m export bench`, from performance/engines.json -->\n"
END = "<!-- end of engines -->"


def test_the_page_shows_the_committed_record() -> None:
    report = read_bench(DOCS / "performance" / "engines.json")
    page = (DOCS / "performance.md").read_text()
    table = page.partition(BEGIN)[2].partition(END)[0]
    assert table == bench_markdown(report)
    names = {one.name for one in report.engines}
    assert {"openvino-f32", "openvino-bf16", "openvino-int8"} <= names
