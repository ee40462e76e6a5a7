"""The database of k8s/components/database: its own files, on a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from client.crypto.keydirectory import create_key_directory
from client.errors import Transient
from client.ledger.ledger import Ledger
from scripts.kubernetes_secrets import main
from tests.postgres import find_initdb, postgres_command

pytestmark = pytest.mark.integration

COMPONENT = Path(__file__).parents[2] / "k8s" / "components" / "database"
Urls = dict[str, str]


@pytest.fixture(scope="module")
def urls() -> Iterator[Urls]:
    """URLs of ledger and vault as the Secrets have them, of a server that the component sets up."""
    initdb = find_initdb()
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="hounsfield-database-") as scratch:
        folder, out = Path(scratch), Path(scratch, "secrets")
        create_key_directory(folder / "keys", "clinic")
        assert main([str(folder / "keys"), "--out", str(out)]) == 0
        (folder / "server").mkdir()
        folder.chmod(0o755)  # the server's account passes through; keys have folders of their own
        command, url = postgres_command(initdb, folder / "server", *_config(folder))
        port = make_url(url).port
        _give_to_server(folder)
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=folder)
        try:
            _make_roles(initdb.with_name("psql"), folder, port)
            yield {
                name: _reached(out / "settings-gateway" / f"HOUNSFIELD_{name}_URL", out, port)
                for name in ("LEDGER", "VAULT")
            }
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()


def _config(folder: Path) -> tuple[str, ...]:
    """Copy the component's files, with the places of this test; return the server's options."""
    shutil.copytree(folder / "secrets" / "database-tls", folder / "tls")
    config = folder / "config"
    config.mkdir()
    for name in ("postgresql.conf", "pg_hba.conf"):
        text = (COMPONENT / name).read_text().replace("'/tls/", f"'{folder}/tls/")
        text = text.replace("'/config/", f"'{config}/").replace("all      postgres", "all test")
        (config / name).write_text(text)
    return ("-c", f"config_file={config / 'postgresql.conf'}")


def _give_to_server(folder: Path) -> None:
    """PostgreSQL runs as the account that owns its data, and reads a key of its own only."""
    owner = (folder / "server").stat().st_uid
    for path in (folder / "tls", *(folder / "tls").iterdir()):
        os.chown(path, owner, -1)


def _make_roles(psql: Path, folder: Path, port: int | None) -> None:
    ready = psql.with_name("pg_isready")
    socket = str(folder / "server")
    wait = f"until {ready} -q -h {socket} -p {port}; do sleep .1; done"
    subprocess.run(["timeout", "30", "sh", "-c", wait], check=True)
    roles = str(folder / "secrets" / "database-roles" / "roles.sql")
    where = ["-h", socket, "-p", str(port), "-U", "test", "-d", "postgres"]
    subprocess.run([str(psql), *where, "-v", "ON_ERROR_STOP=1", "-q", "-f", roles], check=True)


def _reached(secret: Path, out: Path, port: int | None) -> str:
    """The URL as it is mounted, with the host and the folder of this test."""
    url = secret.read_text().replace("@database:5432", f"@localhost:{port}")
    return url.replace("/secrets/database/ca.crt", str(out / "database-tls" / "ca.crt"))


async def _answers(url: str) -> None:
    async with Ledger(url, bytes(32)) as ledger:
        await ledger.ping()


async def test_the_ledger_is_made_in_its_own_database(urls: Urls) -> None:
    await _answers(urls["LEDGER"])
    await _answers(urls["LEDGER"])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sslmode=verify-full", "sslmode=disable"),
        ("/ledger?", "/vault?"),
        ("ledger:", "ledger:x"),
        ("//ledger:", "//postgres:"),
        ("database-tls/ca.crt", "queue-tls/ca.crt"),
    ],
    ids=["without TLS", "the other's database", "password", "superuser", "authority"],
)
async def test_nothing_else_gets_in(urls: Urls, right: str, wrong: str) -> None:
    changed = urls["LEDGER"].replace(right, wrong)
    assert changed != urls["LEDGER"]
    with pytest.raises(Transient):
        await _answers(changed)
