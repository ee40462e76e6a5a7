"""The report is one page that needs nothing beside itself, and shows the case that failed."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.parity.comparison import Candidate, Comparison, measure, measure_patches
from export.parity.facts import machine_facts, version_facts
from export.parity.gate import judge
from export.parity.material import network_images, synthetic_series
from export.parity.overlay import draw_overlay
from export.parity.report import write_report
from export.parity.results import Place, Precision, read_parity
from export.parity.tally import Exhibit
from export.recipe import Limits
from tests.export_networks import smooth_images, tiny_spec

pytestmark = pytest.mark.unit

SPEC = tiny_spec()
LIMITS = Limits()


class Threshold:
    """Two classes by brightness; the scores may be moved by a little."""

    def __init__(self, name: str, moved: float = 0.0) -> None:
        self.name, self._moved = name, moved

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        shown = images[:, 0] + np.float32(self._moved)
        scores = np.stack([-((shown - at) ** 2) for at in (0.0, 0.4, 0.9)], axis=1)
        return {"mask": scores.argmax(axis=1).astype(np.uint8), "logits": scores}


class Outline(HTMLParser):
    """Tags in the order they come, and whether they are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    assert not found.open
    return found


def comparison(*moved: float, labels: bool = False) -> Comparison:
    series = synthetic_series(SPEC)
    if labels:
        mask = Threshold("labels").run(((series.stored + 100) / 300).astype(np.float32)[:, None])
        series = replace(series, labels=mask["mask"], label_classes=(1, 2), synthetic=False)
    engines = [Candidate(Threshold(f"engine {by}", by), Precision.HALF) for by in moved]
    return measure(
        Threshold("torch-f32"), engines, [series], SPEC, facts={"ONNX": "<b>&'"} | machine_facts()
    )


def test_a_page_that_passes_shows_no_failure(tmp_path: Path) -> None:
    files = write_report(comparison(0.0), LIMITS, tmp_path / "new", SPEC.segments)
    page = files.html.read_text(encoding="utf-8")
    assert files.pictures == ()
    assert ">passed<" in page
    assert "failed" not in re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL)
    assert "Synthetic images" in page
    assert "&lt;b&gt;&amp;&#39;" in page  # text is text
    assert outline(page).tags.count("svg") == 2
    assert read_parity(files.json) == comparison(0.0).report


def test_a_page_that_fails_holds_everything_in_one_file(tmp_path: Path) -> None:
    made = comparison(0.0, 0.03, 0.1, labels=True)
    files = write_report(made, LIMITS, tmp_path, SPEC.segments)
    page = files.html.read_text(encoding="utf-8")
    worst = judge(made.report, LIMITS)[0]
    assert worst.message in page
    assert [path.name for path in files.pictures] == [
        "worst-engine-0.1.png",
        "worst-engine-0.03.png",
    ]
    links = outline(page).links
    assert len(links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "Against the labels" in page
    assert "Synthetic images" not in page
    assert "prefers-color-scheme: dark" in page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()


def test_a_report_without_any_comparison_is_written_as_a_failure(tmp_path: Path) -> None:
    files = write_report(comparison(), LIMITS, tmp_path)
    assert ">failed<" in files.html.read_text(encoding="utf-8")


def test_the_overlay_shows_where_masks_differ() -> None:
    made = comparison(0.1)
    exhibit = made.exhibit("engine 0.1")
    assert exhibit is not None
    png = draw_overlay(exhibit, SPEC.segments)
    same = draw_overlay(replace(exhibit, mask=exhibit.expected), SPEC.segments)
    with Image.open(io.BytesIO(png)) as picture, Image.open(io.BytesIO(same)) as clean:
        assert picture.size == clean.size
        assert picture.width >= 1000
        pink = np.array([255, 79, 163])
        shown, empty = (
            (np.abs(np.asarray(one.convert("RGB"))[:650].astype(int) - pink).max(axis=-1) < 6).sum()
            for one in (picture, clean)
        )
    assert shown > 200
    assert empty == 0


def test_an_overlay_of_a_patch_shows_the_layer_that_differs_most() -> None:
    image = smooth_images(1, 6, 32, 40)[0, 0]
    expected = np.zeros((6, 32, 40), np.uint8)
    mask = expected.copy()
    mask[4, 10:20, 10:20] = 1
    flat = Exhibit("engine", Place("patches", 0), image[4], expected[4], mask[4])
    solid = Exhibit("engine", Place("patches", 0), image, expected, mask)
    assert draw_overlay(solid) == draw_overlay(flat)


def test_patches_have_a_page_too(tmp_path: Path) -> None:
    made = measure_patches(
        Threshold("torch-f32"),
        [Candidate(Threshold("moved", 0.2), Precision.F32)],
        smooth_images(2, 4, 32, 32),
        model="volume",
        labels=["one", "two"],
    )
    files = write_report(made, LIMITS, tmp_path)
    assert len(files.pictures) == 1
    outline(files.html.read_text(encoding="utf-8"))


def test_classes_that_are_nowhere_are_called_so(tmp_path: Path) -> None:
    spec = tiny_spec(classes=4)
    series = synthetic_series(spec)
    made = measure(
        Threshold("torch-f32"), [Candidate(Threshold("same"), Precision.F32)], [series], spec
    )
    page = write_report(made, LIMITS, tmp_path).html.read_text(encoding="utf-8")
    assert page.count("not there</td>") == 1
    assert network_images(series, spec).shape[0] == 12


def test_facts_name_what_decides_numbers() -> None:
    assert {"processor", "cores", "memory"} <= set(machine_facts())
    assert {"Python", "torch", "onnxruntime", "openvino"} <= set(version_facts())
