"""The tamper set, shortened: see tests/proof/tamper.py for the whole of it."""

from __future__ import annotations

import pytest

from tests.proof.tamper import prove

pytestmark = pytest.mark.contract


async def test_nothing_that_was_tampered_with_is_accepted() -> None:
    proof = await prove(flips=60, step=13)
    assert proof.held, proof.figures["accepted"]
    assert sum(proof.figures["tried"].values()) > 1_000
    assert len(proof.figures["tried"]) > 40
