"""A real Azure Blob API for tests: Microsoft's Azurite, where it is installed.

npm install --prefix FOLDER azurite
export HOUNSFIELD_TEST_AZURITE=FOLDER/node_modules/.bin/azurite-blob
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from client.addresses import free_ports
from client.process import tied_command

__all__ = ("azure_environment", "azurite", "find_azurite")

_ACCOUNT = "devstoreaccount1"
# The emulator's published key: docs of Azurite, "Default storage account".
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_VERSION = "2021-08-06"
_START_S = 60.0


def find_azurite() -> str | None:
    """Return the server's program that a variable names or the path has, or None."""
    return os.environ.get("HOUNSFIELD_TEST_AZURITE") or shutil.which("azurite-blob")


def azure_environment(endpoint: str) -> dict[str, str]:
    """Return the variables that lead ``az://container`` to the emulator."""
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": _KEY,
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": endpoint,
    }


@contextmanager
def azurite(container: str) -> Iterator[str | None]:
    """Yield the endpoint of a running server with one container; None when there is none."""
    program = find_azurite()
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="hounsfield-azurite-") as folder:
        (port,) = free_ports(1)
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder]
        node = shutil.which("node") or "node"
        command = [node, os.path.realpath(program), *options, "--silent", "--disableTelemetry"]
        server = subprocess.Popen(tied_command(command), stdout=subprocess.DEVNULL)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _make_container(endpoint, container)
            yield endpoint
        finally:
            server.kill()
            server.wait()


def _make_container(endpoint: str, container: str) -> None:
    """Make it, as soon as the server answers; obstore itself makes none."""
    deadline = time.monotonic() + _START_S
    while True:
        date = email.utils.formatdate(usegmt=True)
        told = f"x-ms-date:{date}\nx-ms-version:{_VERSION}\n/{_ACCOUNT}/{_ACCOUNT}/{container}"
        text = "PUT" + "\n" * 12 + told + "\nrestype:container"
        digest = hmac.digest(base64.b64decode(_KEY), text.encode(), hashlib.sha256)
        request = urllib.request.Request(
            f"{endpoint}/{_ACCOUNT}/{container}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": _VERSION,
                "Content-Length": "0",
                "Authorization": f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:  # not there yet
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)
