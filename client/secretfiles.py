"""Secrets that come as files, one for each variable, as clusters mount them.

folders ─▶ file name = variable, content = value ─▶ settings │ credentials of clouds

What lies in a file is in no process listing, no manifest and no crash report of the orchestrator.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from client.errors import ConfigurationError

__all__ = ("CLOUD_PREFIXES", "SECRETS", "read_secrets")

SECRETS = "HOUNSFIELD_SECRETS"
"""The variable that names the folders, separated by ':'."""

CLOUD_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "SSL_CERT_", "VAULT_")
"""Prefixes of the variables with which object stores and key services are opened."""

_MOST_BYTES = 64 << 10


def read_secrets(folders: str) -> dict[str, str]:
    """Return what the files of some folders say, by variable.

    Names that begin with a dot and subfolders are passed over: a mounted volume keeps its own
    versions there. White space around a value is not part of it.

    Args:
        folders: Paths, separated by ':'; "" for none.

    Raises:
        ConfigurationError: A folder or file cannot be read, is too long or not text, or two
            folders have a file of the same name. No value is quoted.
    """
    values: dict[str, str] = {}
    for folder in filter(None, folders.split(":")):
        for path in _files(Path(folder)):
            if path.name in values:
                raise ConfigurationError(f"{path.name} lies in two of the folders of {SECRETS}.")
            values[path.name] = _read(path)
    return values


def _files(folder: Path) -> Iterator[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigurationError(
            f"{SECRETS}: cannot read the folder {folder}: {error.strerror}."
        ) from error
    return (path for path in found if not path.name.startswith(".") and not path.is_dir())


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise ConfigurationError(f"Cannot read the secret {path}: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"The secret {path} is not UTF-8 text.") from None
    if len(content) > _MOST_BYTES or "\0" in text:
        raise ConfigurationError(f"The secret {path} is no value: too long, or with a null byte.")
    return text.strip()
