"""A real PostgreSQL for tests: one that a variable names, or one started from Debian's package."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from client.addresses import free_ports
from client.process import tied_command

__all__ = ("find_initdb", "postgres_command", "postgres_url")

_SERVER_USERS = ("postgres", "nobody")
_SETPRIV = "/usr/bin/setpriv"


def find_initdb() -> Path | None:
    """Return Debian's newest initdb, or the one on the path, or None."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1]
    found = shutil.which("initdb")
    return Path(found).resolve() if found else None


@contextmanager
def postgres_url() -> Iterator[str | None]:
    """Yield a SQLAlchemy URL of an empty database; None when no PostgreSQL can be had."""
    named = os.environ.get("HOUNSFIELD_TEST_POSTGRES_URL")
    initdb = find_initdb()
    if named or initdb is None:
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="hounsfield-postgres-") as folder:
        # Durability is not what these tests ask of PostgreSQL, so -F.
        command, url = postgres_command(initdb, Path(folder), "-F")
        server = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        try:
            _wait_until_ready(initdb.with_name("pg_isready"), make_url(url).port)
            yield url
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            server.wait()


def postgres_command(initdb: Path, folder: Path, *options: str) -> tuple[Sequence[str], str]:
    """Make an empty database in ``folder``; return its server's command, and its URL."""
    data = folder / "data"
    account = _unprivileged_account()
    if account is not None:
        os.chown(folder, account, -1)
    manner = ["-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync"]
    made = _command(account, str(initdb), "-D", str(data), *manner)
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    (port,) = free_ports(1)
    options = (f"-p{port}", f"-k{folder}", "-hlocalhost", "-cmax_connections=40", *options)
    program = str(initdb.with_name("postgres"))
    command = _command(account, program, "-D", str(data), *options)
    return command, f"postgresql+psycopg://test@127.0.0.1:{port}/postgres"


def _command(account: int | None, *argv: str) -> Sequence[str]:
    """Return a command that dies with this process, and runs as another user when one is given."""
    if account is None:
        return tied_command(argv)
    return (_SETPRIV, f"--reuid={account}", "--clear-groups", "--pdeathsig=KILL", *argv)


def _unprivileged_account() -> int | None:
    if os.geteuid() != 0:
        return None
    for name in _SERVER_USERS:
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is no other account.")


def _wait_until_ready(pg_isready: Path, port: int | None) -> None:
    subprocess.run(
        [
            "timeout",
            "30",
            "sh",
            "-c",
            f"until {pg_isready} -q -h 127.0.0.1 -p {port}; do sleep .1; done",
        ],
        check=True,
    )
