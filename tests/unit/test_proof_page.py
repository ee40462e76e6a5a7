"""The page of proofs says what the runs on file saw, broken promises included."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proof.page import PAGE, main
from tests.proof.records import Check, Proof, write_proof

pytestmark = pytest.mark.unit


def proof(name: str, *checks: Check) -> Proof:
    return Proof(name, f"Title of {name}", f"make {name}", checks, {"studies": 3})


def test_the_page_is_up_to_date() -> None:
    assert main(["--check"]) == 0, "write it: python -m tests.proof.page"


def test_every_promise_is_on_the_page_held_or_not(tmp_path: Path) -> None:
    good = Check("a | b", "0 lost", "0 lost", held=True)
    bad = Check("never\nslow", "under 1 s", "2 s", held=False)
    write_proof(proof("first", good), tmp_path)
    write_proof(proof("second", good, bad), tmp_path)
    assert main([], tmp_path) == 0
    page = (tmp_path / PAGE).read_text()
    assert "| [first](#first) | Title of first | 1 of 1 |" in page
    assert "| [second](#second) | Title of second | 1 of 2 |" in page
    assert "| a \\| b | 0 lost | 0 lost | yes |" in page
    assert "| never slow | under 1 s | 2 s | **no** |" in page
    assert "`make second`" in page


def test_an_old_page_is_found(tmp_path: Path) -> None:
    write_proof(proof("first", Check("a", "b", "c", held=True)), tmp_path)
    assert main(["--check"], tmp_path) == 1
    main([], tmp_path)
    assert main(["--check"], tmp_path) == 0
    write_proof(proof("first", Check("a", "b", "d", held=True)), tmp_path)
    assert main(["--check"], tmp_path) == 1
