"""Plots of a parity report as SVG whose colours the page decides, so that dark and light both read.

Colours are CSS variables: --ink, --faint, and --e0, --e1, ... by the engine's position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from export.parity.results import EngineResult, ParityReport

__all__ = ("COLORS", "plot_classes", "plot_slices")

COLORS = 8
"""Engines have one of so many colours."""
WIDTH, LABELS, RIGHT, TOP, ROW = 860, 190, 20, 34, 22
BEST = 1e-5
"""Disagreement that is drawn where there is none: one pixel in a hundred thousand."""


def plot_classes(report: ParityReport, limits: Sequence[tuple[str, float]]) -> Markup:
    """Each class's disagreement (1 - Dice) with the float32 network, on a logarithmic axis.

    Args:
        report: What was measured.
        limits: Name and Dice of each limit, drawn as lines.
    """
    labels = [one.label for one in report.reference.classes]
    bottom = TOP + ROW * len(labels)
    parts = [_decades(bottom)]
    for name, dice in limits:
        x = _x_of(1 - dice)
        parts.append(_line(x, TOP - 4, x, bottom, "limit"))
        parts.append(_text(x, TOP - 10, name, "tick middle"))
    for row, label in enumerate(labels):
        y = TOP + ROW * (row + 0.5)
        parts.append(_text(LABELS - 12, y + 4, label, "end"))
        parts.append(_line(LABELS, y, WIDTH - RIGHT, y, "grid"))
        parts += _dots(report.engines, row, y)
    return _svg(bottom + 30, parts, "Disagreement of each class with the float32 network")


def plot_slices(report: ParityReport, series: str) -> Markup:
    """Differing mask pixels along the slices of one series, on a logarithmic axis."""
    chosen = {
        index: [one for one in result.slices if one.series == series]
        for index, result in enumerate(report.engines)
    }
    numbers = [one.slice for one in report.reference.slices if one.series == series]
    found = (one.differing_pixels for slices in chosen.values() for one in slices)
    highest = max(found, default=0)
    top, bottom = TOP, TOP + 160
    decades = max(1, math.ceil(math.log10(1 + highest)))
    first, span = min(numbers), max(1, max(numbers) - min(numbers))

    def place(number: int, pixels: int) -> str:
        x = LABELS + (WIDTH - RIGHT - LABELS) * (number - first) / span
        return f"{x:.1f},{bottom - (bottom - top) * math.log10(1 + pixels) / decades:.1f}"

    parts = []
    for decade in range(decades + 1):
        y = bottom - (bottom - top) * decade / decades
        value = 0 if decade == 0 else 10**decade
        parts.append(_line(LABELS, y, WIDTH - RIGHT, y, "grid"))
        parts.append(_text(LABELS - 12, y + 4, f"{value:,}", "tick end"))
    for index, slices in chosen.items():
        points = " ".join(place(one.slice, one.differing_pixels) for one in slices)
        name = report.engines[index].engine
        parts.append(
            Markup('<polyline class="e{}" points="{}"><title>{}</title></polyline>').format(
                index % COLORS, points, name
            )
        )
    ends = ((numbers[0], "tick"), (numbers[-1], "tick end"))
    for number, kind in ends[: len(set(numbers))]:
        x = float(place(number, 0).partition(",")[0])
        parts.append(_text(x, bottom + 18, f"slice {number}", kind))
    return _svg(bottom + 30, parts, f"Pixels that differ in each slice of {series}")


def _dots(engines: Sequence[EngineResult], row: int, y: float) -> list[Markup]:
    """Engines that agree alike are drawn beside each other, not over each other."""
    dots, taken = [], dict[int, int]()
    for index, result in enumerate(engines):
        found = result.classes[row]
        if found.dice is None:
            continue
        x = _x_of(1 - found.dice)
        shift = taken[round(x / 9)] = taken.get(round(x / 9), -1) + 1
        dots.append(
            Markup('<circle class="e{}" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>')
            .format(index % COLORS, x + 7 * shift, y, f"{result.engine}: Dice {found.dice:.5f}")
        )  # fmt: skip
    return dots


def _decades(bottom: float) -> Markup:
    parts = []
    for exponent in range(round(math.log10(BEST)), 1):
        x = _x_of(10.0**exponent)
        name = "equal" if 10.0**exponent <= BEST else f"{10.0**exponent:g}"
        parts.append(_line(x, TOP, x, bottom, "grid"))
        parts.append(_text(x, bottom + 18, name, "tick middle"))
    return Markup("").join(parts)


def _x_of(disagreement: float) -> float:
    share = 1 - math.log10(max(disagreement, BEST)) / math.log10(BEST)
    return LABELS + 16 + (WIDTH - RIGHT - LABELS - 16) * share


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup(
        '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    ).format(kind, x1, y1, x2, y2)  # fmt: skip


def _text(x: float, y: float, content: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, content)


def _svg(height: float, parts: Sequence[Markup], title: str) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, height, title, Markup("").join(parts))  # fmt: skip
