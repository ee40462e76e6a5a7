"""The order of a round: everything in turns, a raw engine's turn never far."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.loads import (
    BETWEEN_RAWS,
    ENSEMBLE,
    PRECISIONS,
    RAW,
    SCRIPT,
    WHOLE,
    Load,
    is_peer,
    order,
    quick_loads,
)

pytestmark = pytest.mark.unit

PEERS = ("fastapi", "mosec", "ray_serve", "bentoml", "litserve")


@given(
    st.lists(st.sampled_from(PRECISIONS), min_size=1, unique=True),
    st.lists(st.sampled_from(PEERS), unique=True),
    st.booleans(),
)
def test_every_load_has_its_raw_engine_near(
    precisions: list[str], peers: list[str], script: bool
) -> None:
    loads = order(precisions, peers, script=script)
    for place, load in enumerate(loads):
        near = loads[max(0, place - BETWEEN_RAWS) : place + 1]
        assert load.raw in near
    assert all(not (one.way == RAW == two.way and one == two) for one, two in pairwise(loads))
    for precision in precisions:
        mine = {(load.way, load.in_flight) for load in loads if load.precision == precision}
        assert {(way, count) for way in (RAW, ENSEMBLE) for count in (1, 4, 16)} <= mine
        assert {(WHOLE, count) for count in (1, 2, 4)} <= mine
        expected = set() if precision == "int8" else {*peers}
        assert {way for way, _ in mine if is_peer(way)} == expected
    assert any(load.way == SCRIPT for load in loads) == (script and "f32" in precisions)


def test_a_quick_run_has_ours_in_float32_only() -> None:
    assert {load.precision for load in quick_loads()} == {"f32"}
    assert {load.way for load in quick_loads()} == {RAW, ENSEMBLE, WHOLE}


def test_titles_are_for_people() -> None:
    assert Load(RAW, "f32", 1, "slice", 1).title == "1 slice"
    assert Load(WHOLE, "f32", 4, "study", 16).title == "4 studies"
