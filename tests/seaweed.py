"""A real S3 server for tests: SeaweedFS from its PyPI wheel, on loopback ports of its own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.addresses import free_ports
from client.crypto.keydirectory import KeyDirectory, create_key_directory
from client.process import tied_command

__all__ = ("ACCESS_KEY", "SECRET_KEY", "Seaweed", "credentials", "find_weed", "seaweed")

ACCESS_KEY = "hounsfield-test"
SECRET_KEY = "not-a-secret-only-for-tests"
_START_S = 120.0
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")
_TLS_PORT = "s3.port.https"


def find_weed() -> Path | None:
    """Return the server's program from this environment or the path, or None."""
    ours = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(ours) if ours.exists() else shutil.which("weed")
    return Path(found).absolute() if found else None


def credentials(secret_key: str = SECRET_KEY) -> dict[str, str]:
    """Return the variables in which a process finds its S3 credentials."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": "us-east-1",
    }


class Seaweed:
    """One server with its data in a folder; it may be killed and started again.

    Args:
        weed: The program.
        folder: Where it keeps everything.
    """

    def __init__(self, weed: Path, folder: Path) -> None:
        self._weed = weed
        self._folder = folder
        names = [_TLS_PORT, *_PORTS, *(f"{name}.grpc" for name in _PORTS)]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._server: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{self._ports['s3.port']}"
        self._keys = KeyDirectory(folder / "keys")
        create_key_directory(self._keys.root, "test")
        self.authority = self._keys.authority

    def url(self, bucket: str) -> str:
        """Return the URL of a bucket."""
        return f"s3+http://{self.address}/{bucket}"

    def tls_url(self, bucket: str) -> str:
        """Return the URL of a bucket over TLS; ``authority`` issued the certificate."""
        return f"s3+https://localhost:{self._ports[_TLS_PORT]}/{bucket}"

    def make_bucket(self, bucket: str) -> None:
        """Make an empty bucket; else it comes into being with its first object."""
        address = f"http://127.0.0.1:{self._ports['filer.port']}/buckets/{bucket}/"
        with urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=30):
            pass

    def start(self) -> float:
        """Start, and wait until S3 and the volumes behind it answer; return the seconds it took."""
        began = time.monotonic()
        identity = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        config = self._folder / "s3.json"
        config.write_text(
            json.dumps(
                {"identities": [{"name": "t", "credentials": [identity], "actions": ["Admin"]}]}
            )
        )
        with (self._folder / "weed.log").open("ab") as log:
            self._server = subprocess.Popen(
                tied_command([str(self._weed), *self._options(config)]),
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        master, filer = self._ports["master.port"], self._ports["filer.port"]
        self._wait_for(f"http://127.0.0.1:{master}/dir/assign", began)
        self._wait_for(f"http://127.0.0.1:{filer}/", began)
        self._wait_for(f"http://{self.address}/status", began)
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill it as a power cut would, SIGKILL; SIGTERM would take half a minute."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None
        for port in self._ports.values():
            for socket_left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                socket_left.unlink(missing_ok=True)

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Let it hold its connections without a word, as a hung machine does."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(signal.SIGCONT)

    def _options(self, config: Path) -> list[str]:
        return [
            "server",
            f"-dir={self._folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",  # the filer's port asks for no credentials
            "-filer",
            f"-filer.localSocket={self._folder / 'filer.sock'}",
            "-s3",
            f"-s3.config={config}",
            f"-s3.cert.file={self._keys.gateway_tls.certificate}",
            f"-s3.key.file={self._keys.gateway_tls.private_key}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=300",  # every bucket takes about seven
            "-master.volumeSizeLimitMB=1000",
            "-master.telemetry=false",
            "-master.electionTimeout=1s",  # else it takes 20 s to start anew after a kill
            *(f"-{name}={port}" for name, port in self._ports.items()),
        ]

    def _wait_for(self, url: str, began: float) -> None:
        while True:
            if self._server is None or self._server.poll() is not None:
                raise RuntimeError(f"SeaweedFS ended: {self._last_words()}")
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    if b'"error"' not in answer.read(4096):
                        return
            except urllib.error.HTTPError as error:
                error.close()
            except OSError:
                pass
            if time.monotonic() - began > _START_S:
                raise RuntimeError(f"SeaweedFS does not answer on {url}: {self._last_words()}")
            time.sleep(0.1)

    def _last_words(self) -> str:
        return (self._folder / "weed.log").read_text(errors="replace")[-2000:]


@contextmanager
def seaweed() -> Iterator[Seaweed | None]:
    """Yield a running server; None when its program is not installed."""
    weed = find_weed()
    if weed is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="hounsfield-weed-") as folder:
        server = Seaweed(weed, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()
