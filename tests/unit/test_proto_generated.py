"""The generated protocol code is the one its definition gives, and stands by itself."""

from __future__ import annotations

import importlib.util

import protovalidate
import pytest

from client.proto import ingest_pb2
from scripts.generate_proto import ROOT, generate

pytestmark = pytest.mark.unit

DEFINITION = ROOT / "client" / "proto" / "ingest.proto"


def test_the_generated_code_is_up_to_date() -> None:
    for path, text in generate().items():
        assert (ROOT / path).read_text() == text, f"{path}: run `make proto`"


def test_no_generated_import_can_meet_an_installed_module() -> None:
    assert importlib.util.find_spec("buf") is None
    for path in (ROOT / "client" / "proto").rglob("*_pb2*.py"):
        for line in path.read_text().splitlines():
            assert not line.startswith(("from buf", "from hounsfield", "import buf")), path


def test_the_service_is_the_documented_one() -> None:
    service = ingest_pb2.DESCRIPTOR.services_by_name["Ingest"]
    assert service.full_name == "hounsfield.ingest.v1.Ingest"
    kinds = {m.name: (m.client_streaming, m.server_streaming) for m in service.methods}
    assert kinds == {
        "ListRecipientKeys": (False, False),
        "SubmitStudy": (True, False),
        "GetJob": (False, False),
        "ListJobs": (False, False),
        "WatchJob": (False, True),
        "FetchResult": (False, True),
        "CancelJob": (False, False),
        "RetryJob": (False, False),
        "ErasePatient": (False, False),
        "ListEvents": (False, False),
    }


def test_every_message_has_rules_that_compile() -> None:
    for descriptor in ingest_pb2.DESCRIPTOR.message_types_by_name.values():
        message = getattr(ingest_pb2, descriptor.name)()
        protovalidate.collect_violations(message)


def test_headers_hold_nothing_but_the_agreed_fields() -> None:
    """A field that could carry patient data would show up here."""
    fields = {f.name for f in ingest_pb2.StudyHeader.DESCRIPTOR.fields}
    assert fields == {
        "version",
        "tenant",
        "upload_id",
        "model",
        "priority",
        "key_id",
        "wrapped_dek",
        "plaintext_bytes",
        "plaintext_sha256",
        "ciphertext_bytes",
        "recipient_key_id",
        "recipient_public_keyset",
        "patient_pseudonym",
        "process_again",
        "sealed_label",
    }


@pytest.mark.parametrize(
    ("tenant", "valid"),
    [
        ("a", True),
        ("radiology-2", True),
        ("a" * 63, True),
        ("a" * 64, False),
        ("", False),
        ("-a", False),
        ("a-", False),
        ("A", False),
        ("a\nb", False),
        ("a\n", False),
    ],
)
def test_tenants(tenant: str, valid: bool) -> None:
    header = ingest_pb2.StudyHeader(tenant=tenant)
    broken = {
        violation.proto.field.elements[0].field_name
        for violation in protovalidate.collect_violations(header)
        if violation.proto.field
    }
    assert ("tenant" not in broken) == valid
