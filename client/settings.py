"""The settings of every process, read once from the environment; no other module reads it.

variables, or files in the folders of HOUNSFIELD_SECRETS ─▶ Settings, strictly parsed
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from client.errors import ConfigurationError
from client.secretfiles import CLOUD_PREFIXES, SECRETS, read_secrets

__all__ = ("PREFIX", "Settings", "load_settings", "setting_table")

PREFIX = "HOUNSFIELD_"
_CHOICES = {
    "profile": ("cpu", "gpu"),
    "tokens": ("optional", "required"),
    "log_format": ("text", "json"),
}
_SECRETS_HELP = (
    "Folders, separated by ':', each file of which is named as one of these variables and holds "
    "its value; names with a dot first and subfolders are passed over. Credentials of object "
    "stores and key services (AWS_…, AZURE_…, GOOGLE_…, VAULT_…, SSL_CERT_…) may lie there too."
)


def _setting(
    default: Any, help_text: str, *, minimum: float | None = None, maximum: float | None = None
) -> Any:
    limits = {"minimum": minimum, "maximum": maximum}
    return field(default=default, metadata={"help": help_text, **limits})


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may choose; each field is the variable ``HOUNSFIELD_<FIELD>``.

    An empty string means "the embedded part of the local stack". ``resolved`` fills in the paths
    that follow from ``home``.
    """

    home: str = _setting("", "Folder of keys, stored objects, ledger, queue and logs.")
    keys: str = _setting("", "Folder of keys and certificates; empty: HOME/keys.")
    tenant: str = _setting("local", "Tenant whose certificate `submit` and the demo use.")
    gateway: str = _setting("127.0.0.1:50443", "host:port the gateway listens on and senders call.")
    ledger_url: str = _setting(
        "",
        "SQLAlchemy URL of the ledger (postgresql+psycopg://…); empty: SQLite under HOME.",
    )
    vault_url: str = _setting(
        "",
        "SQLAlchemy URL of the vault of patients' keys, never the ledger's; empty: SQLite under "
        "HOME.",
    )
    kek: str = _setting(
        "",
        "What wraps the vault's keys (aws-kms://…, gcp-kms://…, hcvault://…); empty: KEYS/kek.",
    )
    store_url: str = _setting(
        "",
        "Object store (file:///…, s3://bucket, s3+https://host:port/bucket, gs://…, az://…); "
        "empty: files under HOME.",
    )
    queue_url: str = _setting(
        "", "Redis-protocol URL (rediss://…); empty: an embedded Valkey on a private socket."
    )
    triton_url: str = _setting(
        "", "host:port of Triton's gRPC service; empty: an embedded Triton on loopback."
    )
    triton_worker_key: str = _setting(
        "",
        "Opens Triton's shared memory and statistics to the worker, where it runs beside Triton; "
        "empty: slices travel in messages.",
    )
    model_repository: str = _setting("", "Triton's model repository; empty: the project's own.")
    profile: str = _setting("cpu", "Model configurations to serve: cpu or gpu.")
    studies_in_flight: int = _setting(
        3, "Studies one worker processes at a time; one more place is kept for STAT.", minimum=1
    )
    slices_in_flight: int = _setting(
        64, "Slices that Triton holds at a time, at most; how many follows its queue.", minimum=1
    )
    lease_s: float = _setting(
        30.0, "Seconds without a heartbeat after which a job is taken over.", minimum=1
    )
    drain_s: float = _setting(
        10.0,
        "Seconds that a worker's studies may take after SIGTERM before they are given back.",
        minimum=0,
    )
    max_attempts: int = _setting(
        10, "Tries before a job is dead and waits for a person.", minimum=1
    )
    read_timeout_s: float = _setting(
        120.0, "Seconds the isolated reader or writer of one study may take.", minimum=1
    )
    read_memory_mib: int = _setting(
        8192, "Address space of the isolated reader of one study, MiB.", minimum=512
    )
    memory_mib: int = _setting(
        8192, "Memory of the studies in work of one worker, MiB; a larger one waits.", minimum=64
    )
    max_study_mib: int = _setting(4096, "Largest study accepted, MiB of plaintext.", minimum=1)
    max_queued: int = _setting(
        10_000, "Unfinished jobs of all tenants before the gateway answers 'full'.", minimum=1
    )
    tokens: str = _setting(
        "optional", "Whether callers need a bearer token besides a certificate: optional, required."
    )
    token_issuer: str = _setting(
        "hounsfield", "`iss` of bearer tokens: an OIDC issuer's https address, or the local issuer."
    )
    token_audience: str = _setting("hounsfield", "`aud` of bearer tokens.")
    token_jwks: str = _setting(
        "",
        "Public keys of the token issuer: a JWKS file or https address; empty: ask the OIDC "
        "issuer, or the local issuer's KEYS/tokens/jwks.json.",
    )
    token: str = _setting("", "Bearer token that commands call with; prefer TOKEN_FILE.")
    token_file: str = _setting(
        "", "File with the bearer token that commands call with; read anew for each call."
    )
    break_glass_reason: str = _setting(
        "", "Why commands break the glass, 10 to 200 characters; kept in the audit trail."
    )
    reconcile_s: float = _setting(5.0, "Seconds between two looks for lost work.", minimum=0.1)
    study_retention_days: float = _setting(
        0.0, "Days after a job's end until its study is deleted; 0: never.", minimum=0
    )
    result_retention_days: float = _setting(
        0.0,
        "Days after a job's end until its result is deleted, and its study with it; 0: never.",
        minimum=0,
    )
    health_listen: str = _setting(
        "",
        "host:port where gateway and worker answer gRPC health checks without TLS: the service "
        "without a name is live, `ready` is ready; empty: nowhere. In the local stack the worker "
        "has the next port.",
    )
    metrics_listen: str = _setting(
        "",
        "host:port where gateway and worker show their metrics to Prometheus, under /metrics; "
        "empty: nowhere. In the local stack the worker has the next port.",
    )
    log_format: str = _setting(
        "text", "How gateway and worker write their logs: text, or json with one object a line."
    )
    otlp_endpoint: str = _setting(
        "",
        "Where OpenTelemetry traces go by OTLP/HTTP (http://host:4318, https://…); empty: none "
        "are made.",
    )
    trace_ratio: float = _setting(
        1.0,
        "Part of the traces, 0 to 1, that is recorded where the sender has not decided.",
        minimum=0,
        maximum=1,
    )

    def resolved(self) -> Settings:
        """Return the same settings with every path filled in and absolute."""
        home = Path(self.home or platformdirs.user_state_dir("hounsfield")).expanduser().absolute()
        repository = self.model_repository or Path(__file__).parent.parent / "model_repository"
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {
            "home": str(home),
            "keys": str(Path(self.keys or home / "keys").expanduser().absolute()),
            "ledger_url": self.ledger_url or f"sqlite+aiosqlite:///{home / 'ledger.sqlite'}",
            "vault_url": self.vault_url or f"sqlite+aiosqlite:///{home / 'vault.sqlite'}",
            "store_url": self.store_url or (home / "objects").as_uri(),
            "model_repository": str(Path(repository).absolute()),
            "token_jwks": self.token_jwks or self._local_jwks(home),
        }
        return Settings(**values)

    def _local_jwks(self, home: Path) -> str:
        if self.token_issuer.startswith("https://"):
            return ""
        keys = Path(self.keys or home / "keys").expanduser().absolute()
        return str(keys / "tokens" / "jwks.json")

    def environment(self) -> dict[str, str]:
        """Return the variables that make another process read these same settings."""
        return {f"{PREFIX}{f.name.upper()}": str(getattr(self, f.name)) for f in fields(self)}

    def __repr__(self) -> str:
        """Name every setting, with token, key and passwords in URLs masked."""
        shown = {f.name: _mask(str(getattr(self, f.name))) for f in fields(self)}
        shown |= {name: "***" for name in ("token", "triton_worker_key") if getattr(self, name)}
        inner = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"Settings({inner})"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings, strictly, from variables and from the files of ``HOUNSFIELD_SECRETS``.

    Args:
        environ: Variables to read; None means this process's environment, which then also gets the
            credentials of clouds that lie in files: the libraries that use them look nowhere else.

    Raises:
        ConfigurationError: A variable with our prefix or a file is unknown, a value does not
            parse, or a variable is given both ways.
    """
    variables = os.environ if environ is None else environ
    secrets = read_secrets(variables.get(SECRETS, ""))
    clouds = {name: text for name, text in secrets.items() if name.startswith(CLOUD_PREFIXES)}
    for name, text in secrets.items():
        # Credentials were put there by an earlier call, perhaps.
        if name in variables and not (name in clouds and variables[name] == text):
            raise ConfigurationError(f"{name} is a variable and a file of {SECRETS}: keep one.")
    if environ is None:
        os.environ.update(clouds)
    values = _parsed(_ours(variables), quoted=True)
    values |= _parsed({n: text for n, text in secrets.items() if n not in clouds}, quoted=False)
    return Settings(**values).resolved()


def _ours(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: text
        for name, text in variables.items()
        if name.startswith(PREFIX) and name != SECRETS and not name.startswith(f"{PREFIX}TEST_")
    }


def _parsed(texts: Mapping[str, str], *, quoted: bool) -> dict[str, Any]:
    """Return the values of settings by field; a secret is never quoted in an error."""
    known = {f"{PREFIX}{f.name.upper()}": f for f in fields(Settings)}
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in known:
            raise ConfigurationError(
                f"Unknown setting {name}. Known are: {', '.join(sorted(known))}."
            )
        values[known[name].name] = _parse(name, text, known[name], repr(text) if quoted else "***")
    return values


def _parse(name: str, text: str, setting: Any, shown: str) -> Any:
    kind = type(setting.default)
    try:
        value = kind(text)
    except ValueError:
        raise ConfigurationError(f"{name}: expected {kind.__name__}, got {shown}.") from None
    minimum, maximum = setting.metadata["minimum"], setting.metadata["maximum"]
    if minimum is not None and not value >= minimum:
        raise ConfigurationError(f"{name}: expected at least {minimum:g}, got {shown}.")
    if maximum is not None and not value <= maximum:
        raise ConfigurationError(f"{name}: expected at most {maximum:g}, got {shown}.")
    allowed = _CHOICES.get(setting.name)
    if allowed and value not in allowed:
        raise ConfigurationError(f"{name}: expected {' or '.join(allowed)}, got {shown}.")
    return value


def _mask(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or "@" not in rest:
        return text
    return f"{scheme}://***@{rest.rpartition('@')[2]}"


def setting_table() -> str:
    """Return the Markdown table of every setting for ``docs/configuration.md``."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for f in fields(Settings):
        default = f"`{f.default}`" if f.default != "" else "–"
        rows.append(f"| `{PREFIX}{f.name.upper()}` | {default} | {f.metadata['help']} |")
    rows.append(f"| `{SECRETS}` | – | {_SECRETS_HELP} |")
    return "\n".join(rows)
