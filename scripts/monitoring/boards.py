"""Dashboards as code: panels are described here, and Grafana's own library makes the JSON.

Board of Rows of Graphs and Numbers ──▶ grafana-foundation-sdk ──▶ dashboards/*.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

__all__ = ("Board", "Graph", "Number", "Query", "Row", "to_json")

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_GRAPH_ROWS = 8
_NUMBER_ROWS = 4
_TAG = "hounsfield"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel.

    Attributes:
        expression: PromQL; ``$__rate_interval`` is Grafana's own.
        legend: Name of its lines, with ``{{label}}``.
    """

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Lines over time.

    Attributes:
        title: What is shown.
        meaning: How to read it, for the panel's "i".
        unit: Grafana's id of the unit.
        queries: What is drawn.
        width: Of the 24 columns.
        stacked: Whether the lines add up.
        limit: Where a red line is drawn; None: nowhere.
    """

    title: str
    meaning: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    stacked: bool = False
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Number:
    """The newest value, large.

    Attributes:
        title: What is shown.
        meaning: How to read it.
        unit: Grafana's id of the unit.
        query: What is shown.
        limit: From where on it is red; None: never.
        width: Of the 24 columns.
        red_below: Whether it is red below the limit instead.
    """

    title: str
    meaning: str
    unit: str
    query: Query
    limit: float | None = None
    width: int = 4
    red_below: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Graph | Number, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; ``name`` is its file and, after "hounsfield-", its lasting address."""

    name: str
    title: str
    meaning: str
    rows: tuple[Row, ...]


def to_json(board: Board) -> str:
    """Return the dashboard as Grafana imports it; the same description gives the same text."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"{_TAG}-{board.name}")
        .description(board.meaning)
        .tags([_TAG])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
    )
    number = 0
    for row in board.rows:
        number += 1
        made.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            built = _graph(panel) if isinstance(panel, Graph) else _number(panel)
            made.with_panel(built.id(number))
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _graph(graph: Graph) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(graph.title)
        .description(graph.meaning)
        .datasource(_SOURCE)
        .unit(graph.unit)
        .min(0)
        .height(_GRAPH_ROWS)
        .span(graph.width)
        .line_width(1)
        .fill_opacity(30 if graph.stacked else 5)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if graph.stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if graph.limit is not None:
        panel.thresholds(_thresholds(graph.limit, red_below=False))
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE)
        )
    for index, query in enumerate(graph.queries):
        panel.with_target(_target(query, index).range())
    return panel


def _number(number: Number) -> stat.Panel:
    panel = (
        stat.Panel()
        .title(number.title)
        .description(number.meaning)
        .datasource(_SOURCE)
        .unit(number.unit)
        .height(_NUMBER_ROWS)
        .span(number.width)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("–")
        .with_target(_target(number.query, 0).range())
    )
    if number.limit is not None:
        panel.thresholds(_thresholds(number.limit, red_below=number.red_below))
    return panel


def _target(query: Query, index: int) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .datasource(_SOURCE)
        .expr(query.expression)
        .legend_format(query.legend)
        .ref_id(chr(ord("A") + index))
    )


def _thresholds(limit: float, *, red_below: bool) -> dashboard.ThresholdsConfig:
    below, above = ("red", "green") if red_below else ("green", "red")
    steps = [Threshold(value=None, color=below), Threshold(value=limit, color=above)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
