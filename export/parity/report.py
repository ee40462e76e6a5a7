"""Writes what a comparison found: parity.json, parity.html, a PNG of each engine's worst case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.parity.comparison import Comparison
from export.parity.gate import Violation, judge
from export.parity.overlay import draw_overlay
from export.parity.page import render_page
from export.parity.results import write_parity
from export.recipe import Limits
from preprocess.spec import SegmentSpec

__all__ = ("ReportFiles", "write_report")


@dataclass(frozen=True)
class ReportFiles:
    """Where the report lies.

    Attributes:
        json: The record.
        html: The page.
        pictures: A PNG for each engine whose masks differ at all: where its worst violation is,
            or most pixels differ.
    """

    json: Path
    html: Path
    pictures: tuple[Path, ...]


def write_report(
    comparison: Comparison,
    limits: Limits,
    folder: Path,
    segments: Sequence[SegmentSpec] = (),
) -> ReportFiles:
    """Writes the report, whether it passes or not.

    Args:
        comparison: What was measured.
        limits: What it is judged by.
        folder: Where; made when missing.
        segments: Names and colours of the classes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    violations = judge(comparison.report, limits)
    pictures = _draw(comparison, violations, segments)
    files = ReportFiles(
        json=folder / "parity.json",
        html=folder / "parity.html",
        pictures=tuple(folder / f"worst-{_slug(engine)}.png" for engine in pictures),
    )
    for path, (_, png) in zip(files.pictures, pictures.values(), strict=True):
        path.write_bytes(png)
    write_parity(comparison.report, files.json)
    captions = dict(pictures.values())
    page = render_page(comparison.report, violations, limits, captions)
    files.html.write_text(page, encoding="utf-8")
    return files


def _draw(
    comparison: Comparison, violations: Sequence[Violation], segments: Sequence[SegmentSpec]
) -> dict[str, tuple[str, bytes]]:
    """Caption and PNG by engine, the worst engine first."""
    drawn: dict[str, tuple[str, bytes]] = {}
    worst = {one.engine: one for one in reversed(violations)}
    engines = [one.engine for one in comparison.report.engines]
    for engine in sorted(engines, key=lambda name: -getattr(worst.get(name), "severity", 0.0)):
        broken = worst.get(engine)
        exhibit = comparison.exhibit(engine, broken.place if broken else None)
        if exhibit is None or (broken is None and (exhibit.mask == exhibit.expected).all()):
            continue
        caption = broken.message if broken else f"{engine}: passed; where most pixels differ"
        drawn[engine] = (caption, draw_overlay(exhibit, segments))
    return drawn


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name)
