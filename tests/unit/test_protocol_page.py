"""docs/protocol.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.crypto.binding import study_binding
from client.errors import RefusalCode
from client.ingest.statuses import REFUSAL_CODE_KEY, RETRY_AFTER_KEY
from client.limits import ServiceLimits
from client.proto import ingest_pb2

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def test_every_refusal_code_is_explained() -> None:
    assert set(re.findall(r"^\| `([A-Z_]+)` \| [A-Z]", PAGE, re.MULTILINE)) == set(RefusalCode)


def test_the_worked_example_is_right() -> None:
    lines = re.findall(r"^([0-9a-f]{8} [0-9a-f]+)$", PAGE, re.MULTILINE)
    header = ingest_pb2.StudyHeader(
        tenant="radiology",
        upload_id="11111111-2222-3333-4444-555555555555",
        model="brain_mr",
        key_id="0123456789abcdef0123456789abcdef",
        plaintext_bytes=2048,
        plaintext_sha256=bytes(range(32)),
        recipient_key_id="fedcba9876543210fedcba9876543210",
        recipient_public_keyset=b"public keyset",
        patient_pseudonym="00112233445566778899aabbccddeeff" * 2,
    )
    assert bytes.fromhex("".join(lines)) == study_binding(header)


def test_metadata_limits_and_methods_are_named() -> None:
    limits = ServiceLimits()
    assert f"`{RETRY_AFTER_KEY}`" in PAGE
    assert f"`{REFUSAL_CODE_KEY}`" in PAGE
    assert f"| silence within an upload | {limits.chunk_timeout_s:g} s |" in PAGE
    assert f"| studies arriving at one time | {limits.max_uploads};" in PAGE
    assert f"| jobs watched at one time | {limits.max_watches};" in PAGE
    for method in ingest_pb2.DESCRIPTOR.services_by_name["Ingest"].methods:
        assert method.name in PAGE
