"""The parity report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2

from export.parity.charts import COLORS, plot_classes, plot_slices
from export.parity.gate import Violation, class_dice_limit, mask_dice_limit, misses
from export.parity.results import ClassAgreement, EngineResult, ParityReport
from export.recipe import Limits

__all__ = ("render_page",)

TEMPLATE = "report.html.jinja"


def render_page(
    report: ParityReport,
    violations: Sequence[Violation],
    limits: Limits,
    pictures: Mapping[str, bytes],
) -> str:
    """Renders the page.

    Args:
        report: What was measured.
        violations: Limits that were broken.
        limits: The limits.
        pictures: PNG of slices, by their caption.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "signed": _signed, "significant": _significant}
    environment.tests["missing_limit"] = misses
    source = resources.files("export.parity").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        violations=violations,
        broken={one.engine for one in violations},
        colors=COLORS,
        mask_limits={one.engine: mask_dice_limit(one, limits) for one in report.engines},
        class_limits={one.engine: class_dice_limit(one, limits) for one in report.engines},
        lowest={one.engine: _lowest(one) for one in report.engines},
        classes_plot=plot_classes(report, _drawn_limits(report, limits)),
        slices_plots={one.name: plot_slices(report, one.name) for one in report.series},
        label_rows=_label_rows(report),
        limits=limits,
        pictures={caption: b64encode(png).decode() for caption, png in pictures.items()},
    )


def _lowest(result: EngineResult) -> ClassAgreement | None:
    judged = [one for one in result.classes if one.dice is not None]
    return min(judged, key=lambda one: one.dice or 0.0, default=None)


def _drawn_limits(report: ParityReport, limits: Limits) -> list[tuple[str, float]]:
    """Each limit that some engine is held to, once, by the precisions that are."""
    drawn: dict[float, set[str]] = {}
    for one in report.engines:
        name = "service" if one.served else str(one.precision)
        drawn.setdefault(class_dice_limit(one, limits), set()).add(name)
    return [(f"limit {', '.join(sorted(names))}", dice) for dice, names in drawn.items()]


def _label_rows(report: ParityReport) -> list[list[tuple[str, float, float | None]]]:
    """For each class of each labelled series: (name, Dice, HD95) of the network and each engine."""
    results = (report.reference, *report.engines)
    several = sum(one.labelled for one in report.series) > 1
    return [
        [
            (
                f"{score.label} · {score.series}" if several else score.label,
                score.dice,
                score.hd95_mm,
            )
            for score in scores
        ]
        for scores in zip(*(result.labels for result in results), strict=True)
    ]


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _significant(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _signed(value: float, digits: int = 4) -> str:
    return "±0" if round(value, digits) == 0 else f"{value:+.{digits}f}".replace("-", "−")
