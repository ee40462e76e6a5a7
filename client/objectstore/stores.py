"""Which object store a URL names, and how long we wait for one that is away."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from obstore import exceptions as obstore_errors
from obstore.store import MemoryStore, S3Store, from_url

from client.errors import ConfigurationError
from client.objectstore.localobjects import LocalObjectStore
from client.objectstore.objects import ObjectStore

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

__all__ = ("open_store",)

_RETRIES: RetryConfig = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
"""The library's own bound is three minutes; our callers retry by themselves, with a plan."""
_CONNECTION: ClientConfig = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=20),
    # Of a whole request: a large object on its way to a slow reader takes long, a silent server
    # is found by the line above.
    "timeout": timedelta(hours=4),
}
_SERVERS = {"s3+http": "http", "s3+https": "https"}


def open_store(url: str) -> ObjectStore:
    """Return the store that a URL names; nothing is connected yet.

    Args:
        url: ``file:///folder``, ``memory://``, ``s3://bucket/prefix``, ``gs://…``, ``az://…``, or
            ``s3+https://host:port/bucket/prefix`` for a server that speaks S3 (``s3+http`` without
            TLS). Credentials and regions come from the variables that the cloud's own tools read.

    Raises:
        ConfigurationError: The URL or its options are not those of a store.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ConfigurationError(f"Expected file:///absolute/folder, got {url}.")
        return LocalObjectStore(Path(unquote(parts.path)))
    if parts.scheme == "memory":
        return ObjectStore(MemoryStore())
    if parts.scheme not in ("s3", "gs", "az", *_SERVERS):
        raise ConfigurationError(
            "Expected an object store URL (file, memory, s3, gs, az, s3+https, s3+http), got "
            f"{parts.scheme!r}."
        )
    try:
        if parts.scheme in _SERVERS:
            return ObjectStore(_s3_server(parts))
        return ObjectStore(from_url(url, client_options=_CONNECTION, retry_config=_RETRIES))
    except (obstore_errors.BaseError, ValueError) as error:
        raise ConfigurationError(
            f"The object store {parts.scheme}://{parts.hostname} cannot be opened: set the "
            "credentials and region its provider's own tools read."
        ) from error


def _s3_server(parts: SplitResult) -> S3Store:
    bucket = parts.path.strip("/")
    if not parts.hostname or not bucket or "@" in parts.netloc:
        raise ConfigurationError(
            f"Expected {parts.scheme}://host:port/bucket/prefix without credentials; give those as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    scheme = _SERVERS[parts.scheme]
    return S3Store.from_url(
        f"s3://{bucket}",
        endpoint=f"{scheme}://{parts.netloc}",
        client_options={**_CONNECTION, "allow_http": scheme == "http"},
        retry_config=_RETRIES,
    )
