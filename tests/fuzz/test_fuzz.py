"""The short run: thousands of mutated files and messages, and every input that once broke us."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.bombs import bombs, growth
from tests.fuzz.campaign import MEMORY_MIB, Campaign
from tests.fuzz.isolated import mutated_files, read_isolated
from tests.fuzz.seeds import CORPUS, dicom_seeds, known_crashes, write_seeds
from tests.fuzz.tally import ANSWERS, HANG_S
from tests.fuzz.targets import message_seeds, parse_message, read_dicom
from tests.fuzz.wire import UNTYPED, send_mutated
from tests.gateways import running_gateway

pytestmark = pytest.mark.integration

RUNS = 2_000
ON_THE_WIRE = 150
ISOLATED = 40


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("target", ["dicom", "messages"])
def test_mutated_input_ends_as_a_typed_code(target: str, tmp_path: Path) -> None:
    seeds = dicom_seeds() if target == "dicom" else message_seeds()
    campaign = Campaign(target, tmp_path, guided_every=0)
    progress = campaign.run(seeds, RUNS, seconds=120)
    assert progress.findings == {}, campaign.findings
    assert progress.distinct >= RUNS
    assert len(progress.answers) >= 6
    assert progress.slowest_s < HANG_S
    assert progress.peak_rss_mib < MEMORY_MIB


@pytest.mark.parametrize("name", known_crashes("dicom"))
def test_files_that_once_broke_the_reader(name: str) -> None:
    assert read_dicom(known_crashes("dicom")[name]) in ANSWERS


@pytest.mark.parametrize("name", known_crashes("messages"))
def test_messages_that_once_broke_a_parser(name: str) -> None:
    assert parse_message(known_crashes("messages")[name]) in ANSWERS


def test_the_isolation_loses_no_child_to_mutated_files() -> None:
    files = [*mutated_files(ISOLATED, seed=5), *known_crashes("dicom").values()]
    answers = read_isolated(files)
    assert answers.total() == len(files)
    assert not {"DECODER_CRASHED", "TIMED_OUT"} & set(answers)


async def test_a_gateway_answers_mutated_messages_with_a_status(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        statuses = await send_mutated(gateway, ON_THE_WIRE, seed=3)
    assert not UNTYPED & set(statuses), statuses
    assert statuses["INVALID_ARGUMENT"] > ON_THE_WIRE / 3


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_before_they_grow(name: str, tmp_path: Path) -> None:
    seen = growth(bombs()[name], tmp_path)
    assert seen["codes"] in (["TOO_LARGE"], ["NOT_DICOM"])
    assert int(str(seen["grown_bytes"])) < 64 << 20


def test_the_seeds_on_file_are_the_ones_we_make(tmp_path: Path) -> None:
    write_seeds(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in (CORPUS / "dicom").iterdir()}
