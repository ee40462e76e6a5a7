"""Floods end by the stated times and cost a good client no call; its p99 is in docs/proof."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.limits import ServiceLimits, TransportLimits
from tests.flooding import Flood, flooded, under_attack

pytestmark = pytest.mark.contract

HANDSHAKE_S = TransportLimits().handshake_timeout_s
REQUEST_S = 2.0
SLACK_S = 5.0


@pytest.mark.parametrize(
    "flood",
    [
        Flood("silent", 100, HANDSHAKE_S + SLACK_S),
        Flood("tls-only", 50, HANDSHAKE_S + SLACK_S),
        Flood("slow-streams", 300, REQUEST_S + SLACK_S, 0.5),
        Flood("rapid-reset", 10_000, 60),
    ],
    ids=lambda flood: flood.kind,
)
async def test_a_flood_is_ended(tmp_path: Path, flood: Flood) -> None:
    async with under_attack(tmp_path, ServiceLimits(chunk_timeout_s=REQUEST_S)) as gateway:
        seen = await flooded(gateway, flood, baseline_s=0.5)
        assert (seen.opened, seen.ended) == (flood.count, flood.count)
        assert seen.longest_s < flood.ended_within_s
        assert seen.failed == 0
        # How much longer is measured with many calls, by tests.proof.flood.
        assert seen.during_ms < 5_000
        assert seen.grown_mib < 200
