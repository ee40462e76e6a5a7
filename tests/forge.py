"""Forges what a gateway must refuse, and issues what it must take: tokens and certificates."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from client.crypto.certificates import TENANT_URN, Credential
from client.limits import AccessLimits

__all__ = ("AUDIENCE", "ISSUER", "TOKENS", "TokenForge", "TokenRow", "forge_certificate")

ISSUER = "hounsfield"
AUDIENCE = "hounsfield"
_LIMITS = AccessLimits()
_LEEWAY_S = _LIMITS.clock_leeway_s
_SLACK_S = 15  # what a slow machine may take between making a token and showing it


@cache
def _keys() -> dict[str, Any]:
    """Private keys by id; making an RSA key takes a second."""
    return {
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed": ed25519.Ed25519PrivateKey.generate(),
        "retired": ec.generate_private_key(ec.SECP256R1()),
        "strangers": ec.generate_private_key(ec.SECP256R1()),
        "small": rsa.generate_private_key(65537, 1024),
    }


_ALGORITHMS = {"ec": "ES256", "rsa": "RS256", "ed": "EdDSA", "small": "RS256"}
_PUBLISHED = ("ec", "rsa", "ed", "small")


def _jwk(kid: str) -> dict[str, Any]:
    public = _keys()[kid].public_key()
    algorithm = jwt.get_algorithm_by_name(_ALGORITHMS.get(kid, "ES256"))
    row: dict[str, Any] = algorithm.to_jwk(public, as_dict=True)
    return row | {"kid": kid, "use": "sig", "alg": _ALGORITHMS.get(kid, "ES256")}


def _pem(kid: str) -> bytes:
    public: bytes = (
        _keys()[kid]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return public


def _part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class TokenForge:
    """Makes tokens of one tenant, good and bad."""

    tenant: str = "radiology"
    roles: tuple[str, ...] = ("clinician",)

    def publish(self, path: Path) -> None:
        """Write the JWKS that a gateway under test reads."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"keys": [_jwk(kid) for kid in _PUBLISHED]}))

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return good claims with some of them changed; None takes one out."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "dr.x",
            "tenant": self.tenant,
            "roles": list(self.roles),
            "iat": now,
            "exp": now + 600,
        }
        return {key: value for key, value in (claims | changes).items() if value is not None}

    def token(self, kid: str = "ec", headers: Mapping[str, Any] = {}, **changes: Any) -> str:
        """Return a token signed with one of the keys; a header of () is left out."""
        algorithm = _ALGORITHMS.get(kid, "ES256")
        named = {key: value for key, value in ({"kid": kid} | dict(headers)).items() if value != ()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jwt.warnings.InsecureKeyLengthWarning)
            claims = json.dumps(self.claims(**changes)).encode()
            return jwt.api_jws.encode(claims, _keys()[kid], algorithm, headers=named)

    def lasting(self, life_s: int) -> str:
        """Return a token that lives exactly so long."""
        now = _now(0)
        return self.token(iat=now, exp=now + life_s)

    def sized(self, length_bytes: int) -> str:
        """Return a token of exactly so many bytes; base64 has no length of 4n + 1."""
        room = length_bytes - len(self.token(headers={"pad": ""}, pad=""))
        for in_header in range(4):
            for in_claims in range(room * 3 // 4 - 8, room * 3 // 4 + 8):
                made = self.token(headers={"pad": "x" * in_header}, pad="x" * in_claims)
                if len(made) == length_bytes:
                    return made
        raise AssertionError(f"no token of {length_bytes} bytes")

    def raw(self, header: Any, claims: Any, signature: bytes = b"") -> str:
        """Return three parts glued together."""
        return ".".join((_part(header), _part(claims), _part(signature)))

    def hashed(self, secret: bytes, kid: str) -> str:
        """Return a token signed by HMAC with what everybody knows."""
        head = self.raw({"alg": "HS256", "typ": "JWT", "kid": kid}, self.claims())
        signed = head.rpartition(".")[0]
        return f"{signed}.{_part(hmac.digest(secret, signed.encode(), hashlib.sha256))}"

    def borrowed(self, kid: str, headers: Mapping[str, Any]) -> str:
        """Return a stranger's token that names one of our keys."""
        return jwt.encode(
            self.claims(), _keys()["strangers"], "ES256", headers={"kid": kid} | dict(headers)
        )

    def swapped(self) -> str:
        """Return the signature of one token under the claims of another."""
        head, _, signature = self.token().split(".")
        return f"{head}.{_part(self.claims(roles=['operator']))}.{signature}"

    def flipped(self) -> str:
        """Return a token with one bit of its signature changed."""
        head, claims, signature = self.token().split(".")
        raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
        raw[20] ^= 1
        return f"{head}.{claims}.{_part(bytes(raw))}"


@dataclass(frozen=True)
class TokenRow:
    """One row of the table: what is shown, and whether it must be taken."""

    name: str
    make: Callable[[TokenForge], str]
    taken: bool = False
    scheme: str = field(default="Bearer ")


def _now(offset_s: float) -> int:
    return int(time.time() + offset_s)


_TAKEN = (
    TokenRow("ES256", lambda f: f.token("ec"), True),
    TokenRow("RS256", lambda f: f.token("rsa"), True),
    TokenRow("EdDSA", lambda f: f.token("ed"), True),
    TokenRow("one audience of several", lambda f: f.token(aud=["other", AUDIENCE]), True),
    TokenRow("expired within the leeway", lambda f: f.token(exp=_now(_SLACK_S - _LEEWAY_S)), True),
    TokenRow("begins within the leeway", lambda f: f.token(nbf=_now(_LEEWAY_S - 1)), True),
    TokenRow("lives a second less than it may", lambda f: f.lasting(86_399), True),
    TokenRow("lives as long as it may", lambda f: f.lasting(_LIMITS.max_token_life_s), True),
    TokenRow("a byte less than may be", lambda f: f.sized(_LIMITS.max_token_bytes - 1), True),
    TokenRow("as large as may be", lambda f: f.sized(_LIMITS.max_token_bytes), True),
    TokenRow("scheme in lower case", lambda f: f.token(), True, "bearer "),
)
_FORGED = (
    TokenRow("alg none", lambda f: f.raw({"alg": "none", "kid": "ec"}, f.claims())),
    TokenRow("alg nOnE", lambda f: f.raw({"alg": "nOnE", "kid": "ec"}, f.claims())),
    TokenRow("alg missing", lambda f: f.raw({"kid": "ec"}, f.claims())),
    TokenRow("alg is a list", lambda f: f.raw({"alg": ["ES256"], "kid": "ec"}, f.claims())),
    TokenRow("HS256 with the EC public key", lambda f: f.hashed(_pem("ec"), "ec")),
    TokenRow("HS256 with the RSA public key", lambda f: f.hashed(_pem("rsa"), "rsa")),
    TokenRow("HS256 with the JWK", lambda f: f.hashed(json.dumps(_jwk("rsa")).encode(), "rsa")),
    TokenRow("HS256 with nothing", lambda f: f.hashed(b"", "ec")),
    TokenRow("algorithm of another key", lambda f: f.borrowed("rsa", {})),
    TokenRow("a stranger's signature", lambda f: f.borrowed("ec", {})),
    TokenRow("a bit of the signature flipped", lambda f: f.flipped()),
    TokenRow("signature missing", lambda f: f.token().rpartition(".")[0] + "."),
    TokenRow("signature of other claims", lambda f: f.swapped()),
    TokenRow("RSA key of 1024 bits", lambda f: f.token("small")),
)
_KEY_IDS = (
    TokenRow("kid missing", lambda f: f.token(headers={"kid": ()})),
    TokenRow("kid empty", lambda f: f.token(headers={"kid": ""})),
    TokenRow("kid unknown", lambda f: f.token(headers={"kid": "other"})),
    TokenRow("kid a path", lambda f: f.token(headers={"kid": "../../../../../../dev/null"})),
    TokenRow("kid an address", lambda f: f.token(headers={"kid": "https://evil.example/k"})),
    TokenRow("kid SQL", lambda f: f.token(headers={"kid": "x' OR '1'='1"})),
    TokenRow("kid a number", lambda f: f.raw({"alg": "ES256", "kid": 7}, f.claims(), bytes(64))),
    TokenRow("key rotated out", lambda f: f.token("retired")),
    TokenRow("jku", lambda f: f.borrowed("ec", {"jku": "https://evil.example/jwks.json"})),
    TokenRow("jwk carried along", lambda f: f.borrowed("ec", {"jwk": _jwk("strangers")})),
    TokenRow("x5c carried along", lambda f: f.borrowed("ec", {"x5c": ["MIIB"]})),
    TokenRow("unknown critical header", lambda f: f.token(headers={"crit": ["x"], "x": 1})),
)
_CLAIMS = (
    TokenRow("wrong audience", lambda f: f.token(aud="billing")),
    TokenRow("wrong audiences", lambda f: f.token(aud=["billing", "archive"])),
    TokenRow("audience in upper case", lambda f: f.token(aud=AUDIENCE.upper())),
    TokenRow("wrong issuer", lambda f: f.token(iss="https://evil.example")),
    TokenRow("issuer is a list", lambda f: f.token(iss=[ISSUER])),
    TokenRow("expired", lambda f: f.token(iat=_now(-7200), exp=_now(-3600))),
    TokenRow("expired just beyond the leeway", lambda f: f.token(exp=_now(-_LEEWAY_S - 1))),
    TokenRow("begins beyond the leeway", lambda f: f.token(nbf=_now(_LEEWAY_S + _SLACK_S))),
    TokenRow("issued in the future", lambda f: f.token(iat=_now(_LEEWAY_S + _SLACK_S))),
    TokenRow("lives for a year", lambda f: f.token(exp=_now(365 * 86_400))),
    TokenRow("lives a second too long", lambda f: f.lasting(_LIMITS.max_token_life_s + 1)),
    TokenRow("expiry a text", lambda f: f.token(exp=str(_now(600)))),
    TokenRow("expiry infinite", lambda f: f.token(exp=float("inf"))),
    *(
        TokenRow(f"{claim} missing", lambda f, claim=claim: f.token(**{claim: None}))  # type: ignore[misc]
        for claim in ("aud", "exp", "iat", "iss", "roles", "sub", "tenant")
    ),
    TokenRow("another tenant", lambda f: f.token(tenant="cardiology")),
    TokenRow("tenant in upper case", lambda f: f.token(tenant=f.tenant.upper())),
    TokenRow("tenant is a list", lambda f: f.token(tenant=[f.tenant])),
    TokenRow("unknown role", lambda f: f.token(roles=["superuser"])),
    TokenRow("one role unknown", lambda f: f.token(roles=["clinician", "root"])),
    TokenRow("no role", lambda f: f.token(roles=[])),
    TokenRow("roles a text", lambda f: f.token(roles="clinician")),
    TokenRow("roles not texts", lambda f: f.token(roles=[["clinician"]])),
    TokenRow("subject with a line break", lambda f: f.token(sub="dr.x\nroot")),
    TokenRow("subject empty", lambda f: f.token(sub="")),
)
_SHAPES = (
    TokenRow("empty", lambda _: ""),
    TokenRow("not a token", lambda _: "let-me-in"),
    TokenRow("two dots", lambda _: ".."),
    TokenRow("five parts", lambda f: f"{f.token()}.a.b"),
    TokenRow("not base64", lambda _: "%%%.%%%.%%%"),
    TokenRow("header is no JSON", lambda f: f.raw(b"{", f.claims())),
    TokenRow("header is a list", lambda f: f.raw([], f.claims())),
    TokenRow("header nested deeply", lambda f: f.raw(b"[" * 4000, {})),
    TokenRow("a byte too large", lambda f: f.sized(_LIMITS.max_token_bytes + 1)),
    TokenRow("another scheme", lambda _: "ZHIueDpzZWNyZXQ=", scheme="Basic "),
    TokenRow("no scheme", lambda f: f.token(), scheme=""),
)
TOKENS = (*_TAKEN, *_FORGED, *_KEY_IDS, *_CLAIMS, *_SHAPES)
"""Every token that a gateway must take or refuse."""


def forge_certificate(
    authority: Credential | None,
    *,
    tenants: tuple[str, ...] = ("radiology",),
    hosts: tuple[str, ...] = (),
    begins_days: float = -1,
    ends_days: float = 1,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
) -> Credential:
    """Return a certificate that the authority signed, None for one that signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")])
    issuer, signer = subject, key
    if authority is not None:
        issuer = x509.load_pem_x509_certificate(authority.certificate).subject
        loaded = serialization.load_pem_private_key(authority.private_key, None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer = loaded
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [
        *(x509.UniformResourceIdentifier(f"{TENANT_URN}{tenant}") for tenant in tenants),
        *(x509.DNSName(host) for host in hosts),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins_days))
        .not_valid_after(now + timedelta(days=ends_days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Credential(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
