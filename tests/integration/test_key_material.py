"""What the proofs about key material promise, shortened; see tests/proof."""

from __future__ import annotations

import os
import sys

import pytest

from tests.proof.fresh_keys import prove_apart
from tests.proof.gateway_secrets import prove

pytestmark = pytest.mark.integration


def test_keys_and_streams_of_forked_processes_share_no_random_value() -> None:
    assert prove_apart(5_000) == 0


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0,
    reason="reading another process's memory needs Linux and root",
)
async def test_a_gateway_process_holds_no_key_that_opens_a_study() -> None:
    proof = await prove(studies=3)
    assert proof.held, proof.checks
    assert proof.figures["secrets"] == 8
    assert proof.figures["bytes of memory"] > 20_000_000
