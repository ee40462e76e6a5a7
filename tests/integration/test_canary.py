"""Nothing that the real stack writes holds patient data; the long run is tests.proof.canary."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.proof.canary import proof_of, run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

STUDIES = 12


def test_canaries_are_in_nothing_that_the_stack_writes(
    tmp_path: Path, random_repository: Path
) -> None:
    proof = proof_of(run(tmp_path / "h", random_repository, STUDIES, secrets.randbits(64)))
    assert [(check.promise, check.seen) for check in proof.checks if not check.held] == []
    assert {"done", "NOT_DICOM", "INVALID_ATTRIBUTE", "COLOUR", "DECODER_CRASHED"} <= set(
        proof.figures["outcomes"]
    )
    assert proof.figures["studies"] == STUDIES + 4
