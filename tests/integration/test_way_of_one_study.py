"""The way of one study on the real stack: encrypted in, standard DICOM out, nothing leaked."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import pytest

from client.dicom.readback import read_mask
from client.dicom.reader import read_study
from client.limits import ReadLimits
from tests.local_stack import LocalStack, running_stack
from training.label_maps import CLASS_NAMES
from training.reference import brain_of_classes

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "colin27_mr"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with running_stack(tmp_path_factory.mktemp("way")) as running:
        yield running


@pytest.fixture(scope="module")
def result(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The sample study sent, done and fetched by the command line."""
    slices = sorted(SAMPLE.glob("*.dcm"))
    job = stack.hounsfield("submit", *slices, "--priority", "stat", "--wait")
    out = tmp_path_factory.mktemp("out")
    files = stack.hounsfield("fetch", job["id"], "--out", out)
    return {"job": job, "out": out, "files": files}


def test_the_command_line_tells_the_whole_story(stack: LocalStack, result: dict[str, Any]) -> None:
    job = result["job"]
    assert (job["state"], job["priority"], job["attempt"]) == ("done", "stat", 1)
    assert stack.hounsfield("show", job["id"])["state"] == "done"
    assert [j["id"] for j in stack.hounsfield("jobs")] == [job["id"]]
    assert {Path(f["file"]).name for f in result["files"]} == {
        "measurements.json",
        "segmentation-001.dcm",
    }
    assert {s["service"]: s["state"] for s in stack.hounsfield("status")} == dict.fromkeys(
        ("queue", "triton", "gateway", "worker"), "ready"
    )
    kinds = {key["kind"] for key in stack.hounsfield("keys", "list")}
    assert kinds == {"ca", "gateway", "sender", "worker", "result", "kek"}
    assert all(check["state"] == "ok" for check in stack.hounsfield("doctor"))
    assert stack.hounsfield("cancel", job["id"])["state"] == "done"


def test_errors_have_exit_codes_and_say_what_to_do(stack: LocalStack, tmp_path: Path) -> None:
    missing = stack.hounsfield("show", "00000000-0000-4000-8000-000000000000", code=6)
    assert missing["error"]["kind"] == "NotFound"
    nothing = stack.hounsfield("submit", tmp_path / "no-such-folder", code=3)
    assert "does not exist" in nothing["error"]["message"]
    (tmp_path / "letter.txt").write_text("not a DICOM file")
    refused = stack.hounsfield("submit", tmp_path, "--wait", code=4)
    assert refused["code"] == "NOT_DICOM"
    again = stack.hounsfield("up", code=3)
    assert "already running" in again["error"]["message"]


def test_the_stored_segmentation_is_as_good_as_the_report_says(result: dict[str, Any]) -> None:
    files = [(path.name, path.read_bytes()) for path in sorted(SAMPLE.glob("*.dcm"))]
    (series,) = read_study(files, ReadLimits()).series
    mask = read_mask((result["out"] / "segmentation-001.dcm").read_bytes(), series)
    with np.load(SAMPLE / "reference.npz") as reference:
        brain, structures = reference["brain"], reference["structures"]
    report = json.loads((ROOT / "docs" / "models" / "brain_mr.json").read_text())
    network = ROOT / "model_repository" / "brain_mr_net" / "1" / "model.onnx"
    assert report["onnx_sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    (told,) = [
        row["dice"]
        for row in report["results"]
        if (row["case"], row["plane"], row["slice_mm"]) == ("colin27", "axial", 1.0)
    ]
    seen = {"brain": dice(brain_of_classes(mask, (1.0, 1.0, 1.0)), brain > 0)}
    for value in np.unique(structures[structures > 0]):
        seen[CLASS_NAMES[value]] = dice(mask == value, structures == value)
    assert len(seen) == 8
    for name, score in seen.items():
        assert score == pytest.approx(told[name], abs=0.005), name


def dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / max(int(a.sum() + b.sum()), 1))


def test_measurements_and_segmentation_agree(result: dict[str, Any]) -> None:
    report = json.loads((result["out"] / "measurements.json").read_text())
    (series,) = report["series"]
    assert (series["slices"], series["plane"], series["model"]) == (181, "axial", "brain_mr")
    assert report["refusals"] == []
    assert set(report["stages_s"]) == {"fetch", "read", "segment", "write"}
    segmentation = pydicom.dcmread(result["out"] / "segmentation-001.dcm")
    frames = segmentation.pixel_array
    counted = {s["value"]: 0 for s in series["structures"]}
    for frame, group in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        counted[number] += int(frame.sum())
    assert counted == {s["value"]: s["voxels"] for s in series["structures"]}
    assert segmentation.SOPInstanceUID == series["segmentation_uid"]


def test_nothing_the_stack_wrote_holds_patient_data(
    stack: LocalStack, result: dict[str, Any]
) -> None:
    source = pydicom.dcmread(SAMPLE / sorted(p.name for p in SAMPLE.glob("*.dcm"))[90])
    row = source.pixel_array[100].astype("<u2").tobytes()
    words = [
        str(source.PatientName),
        str(source.PatientName).split("^")[0],
        str(source.PatientID),
        str(source.StudyInstanceUID),
        str(source.SOPInstanceUID),
    ]
    canaries = [form for word in words for form in (word.encode(), word.encode("utf-16-le"))]
    canaries += [row[100:260], source.pixel_array[100].astype(np.uint8).tobytes()[60:140]]
    canaries.append(bytes(source.PixelData)[200:264])
    seen = 0
    for path in (p for p in stack.home.rglob("*") if p.is_file()):
        content = path.read_bytes()
        seen += len(content)
        found = [canary for canary in canaries if canary in content]
        assert found == [], path
    assert seen > 3_000_000  # the study's ciphertext was among what was searched


def test_the_same_search_finds_a_canary_where_there_is_one(result: dict[str, Any]) -> None:
    source = pydicom.dcmread(next(SAMPLE.glob("*.dcm")))
    content = (result["out"] / "segmentation-001.dcm").read_bytes()
    assert str(source.PatientName).encode() in content


def test_down_leaves_no_process_behind(tmp_path: Path, random_repository: Path) -> None:
    with running_stack(tmp_path, model_repository=str(random_repository)) as stack:
        family = stack.processes()
        assert len(family) >= 6
        assert stack.hounsfield("down") == {"stopped": True}
        assert stack.hounsfield("status", code=5) == []
    assert_gone(family)


def assert_gone(family: list[psutil.Process]) -> None:
    # A model that was answering when its server was killed ends after ten seconds.
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        left = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(f"left behind: {left}")


def test_kill_9_of_the_supervisor_takes_everything_along(
    tmp_path: Path, random_repository: Path
) -> None:
    with running_stack(tmp_path, model_repository=str(random_repository)) as stack:
        family = stack.processes()
        family[0].kill()
        assert_gone(family)
