"""Makes the Secrets of k8s/secrets.yaml from a folder of keys, as input of kustomize.

    KEYS, passwords made here, URLs that OUT has ─▶ OUT/<secret>/<key>, OUT/kustomization.yaml
    kubectl apply -k OUT ─▶ the cluster

    python -m scripts.kubernetes_secrets KEYS --out OUT [--outside queue] [--outside database]

Run it where the private keys are. OUT opens studies: keep it as you keep KEYS, or delete it. Run it
again after keys were rotated or certificates renewed; passwords stay.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from client.crypto.certificates import issue_gateway, make_authority, parse_certificate
from client.crypto.keydirectory import KeyDirectory
from client.crypto.privatefiles import make_private_directory, read_private, write_private
from client.errors import ConfigurationError

__all__ = ("PARTS", "main", "make_secrets", "users_acl")

PARTS = ("database", "queue")
"""What may lie inside the cluster or outside it."""
NAMESPACE = "hounsfield"
LOAD_TENANT = "loadtest"
_RENEW_BEFORE = timedelta(days=30)
_GREETINGS = "+ping +hello +auth +client|setinfo +client|setname"
_MAY = {
    "gateway": "+xadd +xlen +xrange +xpending +xgroup|delconsumer +subscribe +unsubscribe",
    "worker": "+xadd +xlen +xrange +xpending +xgroup|create +xgroup|delconsumer +xreadgroup +xack"
    " +xdel +xclaim +xautoclaim +multi +exec +discard +publish",
    "scaler": "+xlen",
}
_DATABASES = ("ledger", "vault")
_SIDES = ("gateway", "worker")

Secret = dict[str, bytes]


def make_secrets(keys: KeyDirectory, out: Path, outside: Collection[str] = ()) -> dict[str, Secret]:
    """Return every Secret, by name.

    Args:
        keys: The folder that ``hounsfield keys new`` made.
        out: Where an earlier run left passwords and certificates, and where the operator has
            written what names things outside.
        outside: Which of ``PARTS`` lie outside the cluster.

    Raises:
        ConfigurationError: A key is missing or open to others, or ``out`` lacks what only the
            operator knows.
    """
    passwords = _passwords(out)
    made = _identities(keys)
    for part in PARTS:
        inside = part not in outside
        made[f"{part}-tls"] = _server_tls(part, out) if inside else _given(out, f"{part}-tls")
    for side in _SIDES:
        made[f"settings-{side}"] = _settings(side, passwords, out, outside)
    if "queue" in outside:
        made["queue-scaler"] = _given(out, "queue-scaler", "username", "password", "ca.crt")
    else:
        made["queue-users"] = {"users.acl": users_acl(passwords).encode()}
        made["queue-scaler"] = {
            "username": b"scaler",
            "password": passwords["scaler"].encode(),
            "ca.crt": made["queue-tls"]["ca.crt"],
        }
    if "database" not in outside:
        made["database-roles"] = {"roles.sql": _roles(passwords).encode()}
    if (out / "store-credentials").is_dir():
        made["store-credentials"] = _files((out / "store-credentials").iterdir())
    return made


def users_acl(passwords: Mapping[str, str]) -> str:
    """Return the queue's file of users: each may do with the streams what its program does.

    Args:
        passwords: Of ``gateway``, ``worker`` and ``scaler``.
    """
    lines = ["user default off", "user probe on nopass -@all +ping +hello +auth"]
    lines += [
        f"user {user} on >{passwords[user]} ~jobs:* &jobs:* -@all {_GREETINGS} {may}"
        for user, may in _MAY.items()
    ]
    return "\n".join(lines) + "\n"


def _identities(keys: KeyDirectory) -> dict[str, Secret]:
    """What each process needs of the folder of keys; see ``KeyDirectory``."""
    tls = keys.gateway_tls
    if not tls.certificate.exists():
        raise ConfigurationError(
            f"Expected keys in {keys.root}: make them with `hounsfield keys new --host …`."
        )
    made = {
        "authority": _files(path for path in (keys.authority, keys.revoked) if path.exists()),
        "gateway-tls": {
            "tls.crt": tls.certificate.read_bytes(),
            "tls.key": read_private(tls.private_key),
        },
        "audit": {"audit.key": keys.audit_key()},
        "kek": _files(keys.kek.glob("*.kek.json")),
        "worker-public": _files(keys.worker_keys.glob("*.public.json")),
        "worker-keys": _files(keys.worker_keys.glob("*.json")),
    }
    jwks = keys.tokens / "jwks.json"
    return made | ({"tokens": _files([jwks])} if jwks.exists() else {})


def _settings(
    side: str, passwords: Mapping[str, str], out: Path, outside: Collection[str]
) -> Secret:
    """The URLs of ledger, vault and queue for the gateway or the worker."""
    name = f"settings-{side}"
    values: Secret = {}
    if "database" in outside:
        values |= _given(out, name, *(f"HOUNSFIELD_{base.upper()}_URL" for base in _DATABASES))
    else:
        for base in _DATABASES:
            url = (
                f"postgresql+psycopg://{base}:{passwords[base]}@database:5432/{base}"
                "?sslmode=verify-full&sslrootcert=/secrets/database/ca.crt"
            )
            values[f"HOUNSFIELD_{base.upper()}_URL"] = url.encode()
    if "queue" in outside:
        return values | _given(out, name, "HOUNSFIELD_QUEUE_URL")
    url = f"rediss://{side}:{passwords[side]}@queue:6379/0?ssl_ca_certs=/secrets/queue/ca.crt"
    return values | {"HOUNSFIELD_QUEUE_URL": url.encode()}


def _given(out: Path, secret: str, *keys: str) -> Secret:
    """What the operator has written, which nobody else can know."""
    paths = [out / secret / key for key in keys or ("ca.crt",)]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise ConfigurationError(
            f"Lies outside the cluster: write its URL, password or certificate authority into "
            f"{', '.join(missing)} (mode 0600), then run this again."
        )
    return {path.name: read_private(path).strip() for path in paths}


def _server_tls(part: str, out: Path) -> Secret:
    """A certificate of the server's own authority, whose key nobody keeps."""
    names = ("tls.crt", "tls.key", "ca.crt")
    before = [out / f"{part}-tls" / name for name in names]
    if all(path.exists() for path in before):
        ends_at = parse_certificate(before[0].read_bytes()).not_valid_after_utc
        if ends_at - datetime.now(UTC) > _RENEW_BEFORE:
            return _files(before)
    authority = make_authority()
    hosts = (part, f"{part}.{NAMESPACE}", f"{part}.{NAMESPACE}.svc")
    issued = issue_gateway(authority, (*hosts, f"{hosts[-1]}.cluster.local"))
    content = (issued.certificate, issued.private_key, authority.certificate)
    return dict(zip(names, content, strict=True))


def _load_sender(keys: KeyDirectory) -> dict[str, Secret]:
    tls = keys.sender_tls(LOAD_TENANT)
    if not tls.certificate.exists():
        raise ConfigurationError(
            f"Expected a sender {LOAD_TENANT}: `hounsfield keys new --tenant {LOAD_TENANT}`."
        )
    sender = (tls.certificate, tls.private_key, keys.pseudonym_key(LOAD_TENANT))
    results = keys.result_keys(LOAD_TENANT).glob("*.json")
    return {"loadtest-sender": _files(sender), "loadtest-results": _files(results)}


def _roles(passwords: Mapping[str, str]) -> str:
    lines = []
    for base in _DATABASES:
        lines.append(f"CREATE ROLE {base} LOGIN PASSWORD '{passwords[base]}';")
        lines.append(f"CREATE DATABASE {base} OWNER {base};")
        lines.append(f"REVOKE ALL ON DATABASE {base} FROM PUBLIC;")
    return "\n".join(lines) + "\n"


def _passwords(out: Path) -> dict[str, str]:
    """The passwords of an earlier run, and new ones for whoever has none."""
    path = out / "passwords.json"
    known: dict[str, str] = json.loads(read_private(path)) if path.exists() else {}
    made = {name: secrets.token_hex(24) for name in (*_MAY, *_DATABASES)} | known
    write_private(path, json.dumps(made, indent=1).encode())
    return made


def _files(paths: Iterable[Path]) -> Secret:
    return {path.name: _content(path) for path in sorted(paths)}


def _content(path: Path) -> bytes:
    """A file; what others may read must be a certificate or a public key."""
    public = path.suffix in (".pem", ".crt") or path.name.endswith((".public.json", "jwks.json"))
    return path.read_bytes() if public else read_private(path)


def _write(out: Path, made: Mapping[str, Secret]) -> None:
    generators = []
    for name, content in sorted(made.items()):
        folder = make_private_directory(out / name)
        for stale in set(folder.iterdir()) - {folder / key for key in content}:
            stale.unlink()
        for key, value in content.items():
            write_private(folder / key, value)
        kind = "kubernetes.io/tls" if "tls.key" in content else "Opaque"
        files = [f"{name}/{key}" for key in sorted(content)]
        generators.append({"name": name, "type": kind, "files": files})
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        # The names that the manifests expect; pods see new content of the same name by themselves.
        "generatorOptions": {"disableNameSuffixHash": True},
        "secretGenerator": generators,
    }
    text = yaml.safe_dump(kustomization, sort_keys=False)
    write_private(out / "kustomization.yaml", text.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m scripts.kubernetes_secrets")
    parser.add_argument("keys", type=Path, help="the folder that `hounsfield keys new` made")
    parser.add_argument("--out", type=Path, required=True, help="where the Secrets go")
    parser.add_argument("--outside", action="append", choices=PARTS, default=[])
    parser.add_argument("--loadtest", action="store_true", help="the load test's sender as well")
    options = parser.parse_args(argv)
    out = make_private_directory(options.out.absolute())
    try:
        keys = KeyDirectory(options.keys)
        made = make_secrets(keys, out, options.outside)
        made |= _load_sender(keys) if options.loadtest else {}
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    _write(out, made)
    print(f"{len(made)} Secrets are in {out}. Next: kubectl apply -k {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
