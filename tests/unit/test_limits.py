"""Every limit on a size, count or depth holds exactly: one below it, at it, and one beyond it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from io import BytesIO
from typing import Any

import pytest
from google.protobuf.message import Message
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from client import limits
from client.crypto.binding import study_binding
from client.dicom.reader import read_study
from client.errors import RefusalCode, Rejected
from client.ingest.bundle import read_bundle, result_bundle
from client.ingest.messages import check
from client.limits import (
    RESULT,
    AccessLimits,
    BundleLimits,
    MessageLimits,
    ReadLimits,
    ServiceLimits,
    StudyLimits,
    TransportLimits,
)
from client.proto import ingest_pb2
from client.proto.buf.validate import validate_pb2
from client.settings import Settings
from tests.contract import test_limits_gateway as gateway_rows
from tests.dicom_factory import Recipe, classic_files, enhanced_file, numbered_volume

pytestmark = pytest.mark.unit

RECIPE = Recipe(numbered_volume(3, 4, 5))
UPLOAD = "11111111-2222-4333-8444-555555555555"
Files = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Row:
    """Input that asks for exactly ``size`` of what ``limit`` bounds."""

    limit: str
    size: int
    files: Files
    also: dict[str, int]
    code: RefusalCode = RefusalCode.TOO_LARGE


def edited(**values: Any) -> Files:
    def edit(instance: Dataset, _: int) -> None:
        for keyword, value in values.items():
            setattr(instance, keyword, value)

    return classic_files(replace(RECIPE, volume=RECIPE.volume[:1]), edit)


def nested(depth: int) -> Files:
    inner = Dataset()
    inner.CodeMeaning = "innermost"
    for _ in range(depth - 1):
        outer = Dataset()
        outer.ReferencedSeriesSequence = [inner]
        inner = outer
    return edited(RequestAttributesSequence=[inner])


def private(groups: int) -> Files:
    def edit(instance: Dataset, _: int) -> None:
        for number in range(groups):
            instance.private_block(0x0031 + 2 * number, "FACTORY", create=True)

    return classic_files(replace(RECIPE, volume=RECIPE.volume[:1]), edit)


def elements(files: Files) -> int:
    def count(dataset: Dataset) -> int:
        inside = (item for element in dataset if element.VR == "SQ" for item in element.value)
        return len(dataset) + sum(map(count, inside))

    return count(dcmread(BytesIO(files[0][1])))


def read_rows() -> Iterator[Row]:
    files, flat = classic_files(RECIPE), {"free_expansion_bytes": 1 << 20}
    several = files + classic_files(replace(RECIPE, series=2))
    yield Row("max_files", 3, files, {})
    yield Row("max_file_bytes", max(len(data) for _, data in files), files, {})
    yield Row("max_series", 2, several, {})
    yield Row("max_elements", elements(nested(4)), nested(4), {})
    yield Row("max_depth", 4, nested(4), {})
    yield Row("max_private_groups", 3, private(3), {})
    rle = enhanced_file(replace(RECIPE, syntax=RLELossless))
    yield Row("max_fragments", 3, rle, {})
    yield Row("max_text_bytes", 64, edited(SeriesDescription="x" * 64), {})
    uid = "1.2." + "3" * 40
    yield Row("max_uid_chars", 44, edited(SeriesInstanceUID=uid), {}, RefusalCode.INVALID_ATTRIBUTE)
    yield Row("max_side", 5, files, {})
    yield Row("max_frames", 3, enhanced_file(RECIPE), {})
    yield Row("max_pixel_bytes", 3 * 4 * 5 * 2, files, flat)
    deflated = edited(ImageComments="x" * 9_999 + "\n")
    plain = deflated[0][1]
    meta_end = 144 + int.from_bytes(plain[140:144], "little")
    packed = classic_files(
        replace(RECIPE, volume=RECIPE.volume[:1], syntax=DeflatedExplicitVRLittleEndian),
        lambda instance, _: setattr(instance, "ImageComments", "x" * 9_999 + "\n"),
    )
    packed_end = 144 + int.from_bytes(packed[0][1][140:144], "little")
    inflated = len(plain) - meta_end
    body = len(packed[0][1]) - packed_end
    assert len(zlib.decompress(packed[0][1][packed_end:], -15)) == inflated
    factor = -(-inflated // body)
    assert factor > 3
    yield Row("max_expansion", factor, packed, {"free_expansion_bytes": 0})
    yield Row("free_expansion_bytes", inflated, packed, {"max_expansion": 0})


READ_ROWS = {row.limit: row for row in read_rows()}


def refusals(row: Row, limit: int) -> set[RefusalCode]:
    held = replace(ReadLimits(), **row.also, **{row.limit: limit})
    try:
        content = read_study(row.files, held)
    except Rejected as refusal:
        return {refusal.code}
    return {refusal.code for refusal in content.refusals}


@pytest.mark.parametrize("name", [f.name for f in fields(ReadLimits)])
def test_the_readers_limits(name: str) -> None:
    row = READ_ROWS[name]
    assert refusals(row, row.size + 1) == set()
    assert refusals(row, row.size) == set()
    assert refusals(row, row.size - 1) == {row.code}


BUNDLE = b"".join(result_bundle({"a" * 20: b"x" * 100, "b.dcm": b"y" * 700}).chunks())
BUNDLE_ROWS = {
    "max_bytes": (len(BUNDLE), RefusalCode.TOO_LARGE),
    "max_files": (2, RefusalCode.TOO_LARGE),
    "max_file_bytes": (700, RefusalCode.TOO_LARGE),
    "max_name_chars": (20, RefusalCode.BAD_BUNDLE),
    "max_padding_bytes": (1024, RefusalCode.BAD_BUNDLE),
}


@pytest.mark.parametrize("name", [f.name for f in fields(BundleLimits)])
def test_the_limits_of_a_bundle(name: str) -> None:
    size, code = BUNDLE_ROWS[name]
    for limit in (size + 1, size):
        assert len(list(read_bundle(BUNDLE, replace(BundleLimits(), **{name: limit})))) == 2
    with pytest.raises(Rejected) as caught:
        list(read_bundle(BUNDLE, replace(BundleLimits(), **{name: size - 1})))
    assert caught.value.code is code


def header(**values: Any) -> Message:
    right: dict[str, Any] = {
        "version": 1,
        "tenant": "radiology",
        "upload_id": UPLOAD,
        "priority": ingest_pb2.PRIORITY_STAT,
        "key_id": "0" * 32,
        "wrapped_dek": bytes(64),
        "plaintext_bytes": 1,
        "plaintext_sha256": bytes(32),
        "ciphertext_bytes": 57,
        "recipient_key_id": "0" * 32,
        "recipient_public_keyset": bytes(32),
    }
    made = ingest_pb2.StudyHeader(**right | values)
    assert study_binding(made)
    return made


Make = Callable[[int], Message]
MESSAGE_ROWS: dict[str, Make] = {
    "max_chunk_bytes": lambda n: ingest_pb2.SubmitStudyRequest(chunk=bytes(n)),
    "max_wrapped_key_bytes": lambda n: header(wrapped_dek=bytes(n)),
    "max_keyset_bytes": lambda n: header(recipient_public_keyset=bytes(n)),
    "max_label_bytes": lambda n: header(sealed_label=bytes(n)),
    "max_tenant_chars": lambda n: header(tenant="t" * n),
    "max_model_chars": lambda n: header(model="m" * n),
    "max_page_jobs": lambda n: ingest_pb2.ListJobsRequest(page_size=n),
    "max_page_events": lambda n: ingest_pb2.ListEventsRequest(page_size=n),
    "max_page_token_chars": lambda n: ingest_pb2.ListJobsRequest(page_token="t" * n),
    "max_reason_chars": lambda n: ingest_pb2.ErasePatientRequest(upload_id=UPLOAD, reason="r" * n),
}


@pytest.mark.parametrize("name", [f.name for f in fields(MessageLimits)])
def test_the_limits_of_a_message(name: str) -> None:
    limit, make = getattr(MessageLimits(), name), MESSAGE_ROWS[name]
    check(make(limit - 1))
    check(make(limit))
    with pytest.raises(Rejected) as caught:
        check(make(limit + 1))
    assert caught.value.code is RefusalCode.INVALID_REQUEST


def declared_limits() -> set[int]:
    """Every upper bound that a field of a request declares in the proto file."""
    found = set()
    for message in ingest_pb2.DESCRIPTOR.message_types_by_name.values():
        for field in message.fields:
            rules: Any = field.GetOptions().Extensions[validate_pb2.field]  # type: ignore[index]
            found |= {rules.bytes.max_len, rules.string.max_len, rules.uint32.lte}
            if counted := re.search(r"\{0,(\d+)\}(\[)?", rules.string.pattern):
                found.add(int(counted[1]) + (2 if counted[2] else 1))
    return found - {0}


def test_no_field_has_a_limit_that_is_not_listed() -> None:
    assert declared_limits() == {getattr(MessageLimits(), f.name) for f in fields(MessageLimits)}


def test_no_class_of_limits_is_left_out() -> None:
    """AccessLimits are tried by ``tests/forge.py`` and ``tests/unit/test_access_*.py``."""
    tried = {BundleLimits, ReadLimits, MessageLimits, ServiceLimits, TransportLimits, AccessLimits}
    declared = {each for each in vars(limits).values() if isinstance(each, type)}
    assert {each for each in declared if is_dataclass(each)} == tried | {StudyLimits}


@pytest.mark.parametrize("kind", [ServiceLimits, TransportLimits])
def test_every_limit_of_the_gateway_has_a_row(kind: type) -> None:
    counted = {f.name for f in fields(kind) if not f.name.endswith("_s")}
    rows = {row.partition(".") for row in gateway_rows.ROWS}
    assert {name for owner, _, name in rows if owner == kind.__name__} == counted


def test_settings_and_limits_begin_alike() -> None:
    study_bytes = Settings().max_study_mib << 20
    assert BundleLimits().max_bytes == ServiceLimits().max_study_bytes == study_bytes
    assert Settings().max_queued == ServiceLimits().max_unfinished_jobs
    assert StudyLimits() == StudyLimits(BundleLimits(), ReadLimits())
    assert RESULT.max_bytes < BundleLimits().max_bytes
    assert MessageLimits().max_chunk_bytes < TransportLimits().max_message_bytes
