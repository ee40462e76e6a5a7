"""The adapters of key management services, against servers that speak their protocols.

AWS: moto's server. Vault: its transit API over TLS, as its documentation has it. Google: the gRPC
service with its own messages. None of them is the real service; docs/keys.md says so.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client.addresses import free_ports
from client.crypto.certificates import issue_gateway, make_authority
from client.crypto.cloudkms import CloudKeyManager
from client.crypto.kms import KeyManager, LocalKeyManager, open_key_manager
from client.errors import ConfigurationError, NotFound, Rejected, Transient
from client.vault.vault import Vault

pytestmark = pytest.mark.contract

SECRET, CONTEXT = b"a subject's key", b"row of one subject"
TOKEN = "a token that the fake takes"


@pytest.fixture
def vault_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Vault's transit engine as far as encrypt and decrypt go, with a key `hounsfield`."""
    pytest.importorskip("hvac", reason="no hvac: install hounsfield[kms]")
    authority = make_authority()
    credential = issue_gateway(authority)
    for name, content in (
        ("ca.pem", authority.certificate),
        ("vault.pem", credential.certificate),
        ("vault.key", credential.private_key),
    ):
        (tmp_path / name).write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), TransitHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "vault.pem", tmp_path / "vault.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"hcvault://localhost:{server.server_port}/transit/keys/hounsfield"
    server.shutdown()
    thread.join()
    server.server_close()


class TransitHandler(BaseHTTPRequestHandler):
    """https://developer.hashicorp.com/vault/api-docs/secret/transit."""

    key = AESGCM(bytes(range(32)))

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("X-Vault-Token") != TOKEN:
            self.answer(403, {"errors": ["permission denied"]})
        elif self.path == "/v1/transit/encrypt/hounsfield":
            nonce = os.urandom(12)
            sealed = nonce + self.key.encrypt(nonce, base64.b64decode(body["plaintext"]), None)
            ciphertext = f"vault:v1:{base64.b64encode(sealed).decode()}"
            self.answer(200, {"data": {"ciphertext": ciphertext}})
        elif self.path == "/v1/transit/decrypt/hounsfield":
            self.decrypt(body["ciphertext"])
        elif self.path.endswith("/sealed"):
            self.answer(503, {"errors": ["Vault is sealed"]})
        else:
            self.answer(404, {"errors": []})

    def decrypt(self, ciphertext: str) -> None:
        try:
            sealed = base64.b64decode(ciphertext.removeprefix("vault:v1:"))
            plaintext = self.key.decrypt(sealed[:12], sealed[12:], None)
        except (ValueError, InvalidTag):
            self.answer(400, {"errors": ["cipher: message authentication failed"]})
        else:
            self.answer(200, {"data": {"plaintext": base64.b64encode(plaintext).decode()}})

    def answer(self, status: int, content: object) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def check_promises(manager: KeyManager, other: KeyManager) -> None:
    """What every key manager promises."""
    key_id, wrapped = manager.wrap(SECRET, CONTEXT)
    assert key_id == manager.key_id
    assert SECRET not in wrapped
    assert manager.wrap(SECRET, CONTEXT)[1] != wrapped
    assert manager.unwrap(key_id, wrapped, CONTEXT) == SECRET
    with pytest.raises(Rejected):
        manager.unwrap(key_id, wrapped, b"row of another subject")
    damaged = wrapped[:-9] + bytes([wrapped[-9] ^ 1]) + wrapped[-8:]
    with pytest.raises(Rejected):
        manager.unwrap(key_id, damaged, CONTEXT)
    with pytest.raises(NotFound):
        manager.unwrap(other.key_id, wrapped, CONTEXT)


def test_vault_keeps_what_a_key_manager_promises(vault_server: str) -> None:
    check_promises(CloudKeyManager(vault_server), CloudKeyManager(f"{vault_server}2"))


def test_vault_s_refusals_are_told_apart(
    vault_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = vault_server.replace("keys/hounsfield", "keys/sealed")
    with pytest.raises(Transient, match="VaultDown"):
        CloudKeyManager(sealed).wrap(SECRET, CONTEXT)
    with pytest.raises(ConfigurationError, match="InvalidPath"):
        CloudKeyManager(f"{vault_server}2").wrap(SECRET, CONTEXT)
    with pytest.raises(Transient, match="HashiCorp Vault is away"):
        CloudKeyManager(f"hcvault://localhost:{free_ports(1)[0]}/transit/keys/k").wrap(
            SECRET, CONTEXT
        )
    monkeypatch.setenv("VAULT_TOKEN", "another")
    with pytest.raises(ConfigurationError, match="Forbidden") as caught:
        CloudKeyManager(vault_server).wrap(SECRET, CONTEXT)
    assert "another" not in str(caught.value)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(Transient, match="SSLError"):
        CloudKeyManager(vault_server).wrap(SECRET, CONTEXT)


async def test_a_vault_moves_from_a_local_key_to_a_service(
    vault_server: str, tmp_path: Path
) -> None:
    local = LocalKeyManager(tmp_path / "kek")
    local.create()
    url = f"sqlite+aiosqlite:///{tmp_path / 'vault.sqlite'}"
    async with Vault(url, local) as vault:
        key = await vault.key_for("radiology", "upload:1")
        sealed = await vault.seal(key, b"a header", CONTEXT)
    async with Vault(url, open_key_manager(vault_server, tmp_path / "kek")) as vault:
        assert await vault.open(key, sealed, CONTEXT) == b"a header"
        assert await vault.rewrap() == 1
        assert await vault.kek_uses() == {vault_server: 1}
    local.destroy(local.key_id)
    async with Vault(url, open_key_manager(vault_server, tmp_path / "kek")) as vault:
        assert await vault.open(key, sealed, CONTEXT) == b"a header"


@pytest.fixture
def aws_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A key in moto's server."""
    for module in ("moto", "boto3", "flask"):
        pytest.importorskip(module, reason="no moto[server,kms]: see docs/keys.md")
    (port,) = free_ports(1)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/moto-api/")
        import boto3

        made = boto3.client("kms", region_name="eu-central-1").create_key()
        yield f"aws-kms://{made['KeyMetadata']['Arn']}"
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


def test_aws_keeps_what_a_key_manager_promises(
    aws_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_promises(CloudKeyManager(aws_key), CloudKeyManager(f"{aws_key}2"))
    with pytest.raises(ConfigurationError, match="AWS KMS does not let us"):
        CloudKeyManager(f"{aws_key.rpartition('/')[0]}/{'0' * 36}").wrap(SECRET, CONTEXT)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(Transient, match="EndpointConnectionError"):
        CloudKeyManager(aws_key).wrap(SECRET, CONTEXT)


@pytest.fixture
def google_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A key in a gRPC server with Google's own messages, which Tink's client is pointed to."""
    kms_v1 = pytest.importorskip("google.cloud.kms_v1", reason="install hounsfield[kms]")
    import grpc
    from google.cloud.kms_v1.services.key_management_service import transports
    from tink.integration.gcpkms import _gcp_kms_client

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((google_handlers(kms_v1),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = kms_v1.KeyManagementServiceClient
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        transport = transports.KeyManagementServiceGrpcTransport(channel=channel)
        monkeypatch.setattr(
            _gcp_kms_client.kms_v1,
            "KeyManagementServiceClient",
            lambda credentials: client(transport=transport),
        )
        yield "gcp-kms://projects/p/locations/europe/keyRings/r/cryptoKeys/hounsfield"
        server.stop(0).wait()


def google_handlers(kms_v1: Any) -> Any:
    """Encrypt and Decrypt of google.cloud.kms.v1.KeyManagementService."""
    import grpc

    key = AESGCM(bytes(range(32)))

    def encrypt(request: Any, context: Any) -> Any:
        if not request.name.endswith("/hounsfield"):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such key")
        nonce = os.urandom(12)
        sealed = key.encrypt(nonce, request.plaintext, request.additional_authenticated_data)
        return kms_v1.EncryptResponse(name=request.name, ciphertext=nonce + sealed)

    def decrypt(request: Any, context: Any) -> Any:
        sealed, bound = request.ciphertext, request.additional_authenticated_data
        try:
            return kms_v1.DecryptResponse(plaintext=key.decrypt(sealed[:12], sealed[12:], bound))
        except InvalidTag:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Decryption failed")

    def method(call: Any, request: Any, response: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=request.deserialize, response_serializer=response.serialize
        )

    return grpc.method_handlers_generic_handler(
        "google.cloud.kms.v1.KeyManagementService",
        {
            "Encrypt": method(encrypt, kms_v1.EncryptRequest, kms_v1.EncryptResponse),
            "Decrypt": method(decrypt, kms_v1.DecryptRequest, kms_v1.DecryptResponse),
        },
    )


def test_google_keeps_what_a_key_manager_promises(google_key: str) -> None:
    check_promises(CloudKeyManager(google_key), CloudKeyManager(f"{google_key}2"))
    with pytest.raises(ConfigurationError, match="NotFound"):
        CloudKeyManager(f"{google_key}2").wrap(SECRET, CONTEXT)


@pytest.mark.parametrize(
    "uri", ["aws-kms://arn:aws:kms:eu-central-1:1:key/k", "gcp-kms://projects/p", "hcvault://h/k"]
)
def test_a_missing_library_is_named(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("boto3", "google.cloud", "hvac"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in [name for name in sys.modules if name.startswith("tink.integration")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ConfigurationError, match=r"hounsfield\[kms\]"):
        CloudKeyManager(uri).wrap(SECRET, CONTEXT)
