"""Engines are measured in processes of their own, in turns, and what cannot run is said."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image
from rich.console import Console

from export.benchmark.measuring import BenchOptions, BenchTarget, TargetKind, run_benchmark
from export.benchmark.page import bench_table, draw_bench, ratios
from export.benchmark.process import EngineProcess
from export.benchmark.records import BenchReport, read_bench, write_bench
from export.errors import EngineError, ExportError
from tests.export_networks import SIDE, tiny_description, write_recipe
from tests.networks import write_network

pytestmark = pytest.mark.integration

SHAPE = (1, SIDE, SIDE)
OPTIONS = BenchOptions(seconds=3, batches=(1, 4), threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_network(folder / "model.onnx", side=SIDE)
    (folder / "broken.onnx").write_bytes(b"not a model")
    write_recipe(folder)
    (folder / "model.yaml").write_text(yaml.safe_dump(tiny_description()))
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> BenchReport:
    targets = [
        BenchTarget("openvino", TargetKind.OPENVINO, folder / "model.onnx"),
        BenchTarget("onnxruntime", TargetKind.ONNXRUNTIME, folder / "model.onnx"),
        BenchTarget("torch", TargetKind.TORCH, folder / "MODEL.yaml", model=folder / "model.yaml"),
        BenchTarget("broken", TargetKind.ONNXRUNTIME, folder / "broken.onnx"),
    ]
    turns: list[str] = []
    found = run_benchmark(
        targets,
        model="tiny",
        shape=SHAPE,
        options=OPTIONS,
        facts={"network": "abc"},
        advance=turns.append,
    )
    assert turns.count("torch") == turns.count("openvino") == 1 + 2 * found.rounds
    assert "broken" not in turns
    return found


def test_every_engine_is_measured_at_every_batch_size(report: BenchReport) -> None:
    assert [one.name for one in report.engines] == ["openvino", "onnxruntime", "torch"]
    for one in report.engines:
        assert [found.batch for found in one.batches] == [1, 4]
        assert 0 < one.latency_p50_s <= one.latency_p99_s
        assert one.load_s > 0
        assert one.threads == 1
        for found in one.batches:
            assert 0 < found.images_per_s <= found.best_images_per_s
            assert found.cpu_s_per_image > 0
            assert found.calls >= report.rounds


def test_memory_is_that_of_the_engines_own_process(report: BenchReport) -> None:
    """This process has torch, OpenVINO and more loaded: a child must not inherit its peak."""
    here = psutil.Process().memory_info().rss
    sizes = {one.name: one.batches[-1].peak_bytes for one in report.engines}
    assert sizes["openvino"] < here
    for one in report.engines:
        peaks = [found.peak_bytes for found in one.batches]
        assert one.imports_bytes < peaks[0] <= peaks[1]
    assert sizes["torch"] > sizes["openvino"]


def test_what_cannot_run_is_left_out_with_its_reason(report: BenchReport, folder: Path) -> None:
    (skipped,) = report.skipped
    assert skipped.name == "broken"
    assert f"{folder / 'broken.onnx'}: ONNX Runtime cannot load it" in skipped.reason


def test_the_time_is_bounded(report: BenchReport) -> None:
    assert 1 <= report.rounds <= 5
    assert 0 <= report.others_share <= 1
    assert report.duration_s < 120


def test_the_record_survives_json(report: BenchReport, tmp_path: Path) -> None:
    write_bench(report, tmp_path / "new" / "engines.json")
    assert read_bench(tmp_path / "new" / "engines.json") == report
    assert report.facts["network"] == "abc"
    assert report.facts["onnxruntime"]
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ExportError, match="expected a report of schema"):
        read_bench(tmp_path / "other.json")


def test_table_and_plot_show_every_engine(report: BenchReport) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(bench_table(report))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for one in asdict(report)["engines"]:
        assert one["name"] in text
    assert "1 threads each" in text
    assert "broken was not run" in text
    assert ratios(report)["openvino"] == 1
    with Image.open(io.BytesIO(draw_bench(report))) as picture:
        assert picture.width > 1000


def test_nothing_to_measure_is_an_error(folder: Path) -> None:
    broken = BenchTarget("broken", TargetKind.OPENVINO, folder / "broken.onnx")
    with pytest.raises(EngineError, match=r"tiny: no engine could run: broken: .*cannot read it"):
        run_benchmark([broken], model="tiny", shape=SHAPE, options=OPTIONS)
    assert not [child for child in psutil.Process().children() if "benchmark" in str(child)]


def test_an_engine_whose_process_dies_is_named(folder: Path) -> None:
    with EngineProcess("doomed") as process:
        with pytest.raises(EngineError, match="doomed: its process ended with 1: "):
            process.ask({"kind": "onnxruntime"})  # no path: a fault of the program itself
        with pytest.raises(EngineError, match="doomed: its process ended with 1: "):
            process.ask({"batch": 1, "seconds": 1})


@pytest.mark.parametrize("batches", [(), (2, 4), (1, 4, 2)])
def test_batches_begin_with_one_and_grow(batches: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="batch sizes that begin with 1 and grow"):
        BenchOptions(batches=batches)
