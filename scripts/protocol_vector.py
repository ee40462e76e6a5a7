"""Writes docs/protocol-vector.json: one sealed study and its result, with every key published."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from client.crypto.binding import result_binding, study_binding
from client.crypto.digest import Digest
from client.crypto.keyring import Keyring, PublicKey
from client.crypto.studies import seal_result, seal_study
from client.proto import ingest_pb2

__all__ = ("main",)

_PAGE = Path(__file__).parents[1] / "docs" / "protocol-vector.json"
_COMMENT = (
    "One study and its result, sealed. Made for tests of other implementations: the private keys "
    "are published here and protect nothing."
)
_UPLOAD, _JOB = "11111111-2222-4333-8444-555555555555", "99999999-8888-4777-8666-555555555555"
_PSEUDONYM = "00112233445566778899aabbccddeeff" * 2


def main() -> None:
    """Seal the plaintexts that the present page holds with fresh keys."""
    before = json.loads(_PAGE.read_text())
    study, result = (base64.b64decode(before[p]["plaintext_base64"]) for p in ("study", "result"))
    with tempfile.TemporaryDirectory() as folder:
        worker, sender = Path(folder, "worker"), Path(folder, "sender")
        worker_key, sender_key = Keyring(worker).create(), Keyring(sender).create()
        sealed = seal_study(
            lambda: [study],
            Digest.of([study]),
            tenant="radiology",
            upload_id=_UPLOAD,
            recipient=worker_key,
            result_key=sender_key,
            model="brain_mr",
            patient_pseudonym=_PSEUDONYM,
        )
        answer = seal_result(sealed.header, _JOB, [result], Digest.of([result]))
        page = {
            "comment": _COMMENT,
            "study": _part(sealed.header, study_binding(sealed.header), sealed.chunks(), study)
            | _keys(worker, worker_key),
            "result": _part(answer.header, result_binding(answer.header), answer.chunks, result)
            | _keys(sender, sender_key),
        }
    _PAGE.write_text(json.dumps(page, indent=2) + "\n")


def _part(
    header: ingest_pb2.StudyHeader | ingest_pb2.ResultHeader,
    binding: bytes,
    ciphertext: Iterable[bytes],
    plaintext: bytes,
) -> dict[str, Any]:
    return {
        "header_protobuf_base64": _base64(header.SerializeToString(deterministic=True)),
        "header": json_format.MessageToDict(header, preserving_proto_field_name=True),
        "associated_data_hex": binding.hex(),
        "ciphertext_base64": _base64(b"".join(ciphertext)),
        "plaintext_base64": _base64(plaintext),
    }


def _keys(folder: Path, key: PublicKey) -> dict[str, Any]:
    private = (folder / f"{key.key_id}.private.json").read_text()
    return {
        "recipient_private_keyset": json.loads(private),
        "recipient_public_keyset_base64": _base64(key.keyset),
    }


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


if __name__ == "__main__":
    main()
