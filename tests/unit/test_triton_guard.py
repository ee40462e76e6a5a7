from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from client.addresses import free_ports
from client.crypto.privatefiles import write_private
from client.errors import ConfigurationError
from client.settings import Settings, load_settings
from client.triton.guard import Guard, guard, run_guard
from client.triton.server import TritonSettings

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def settings(**variables: str) -> Settings:
    return load_settings({f"HOUNSFIELD_{name}": text for name, text in variables.items()})


async def test_a_server_that_is_away_is_not_ill() -> None:
    (port,) = free_ports(1)
    await Guard(TritonSettings(REPOSITORY, grpc_port=port, admin_key="key")).check()


async def test_it_ends_when_it_is_told_to() -> None:
    (port,) = free_ports(1)
    stop = asyncio.Event()
    guarding = asyncio.create_task(guard(settings(TRITON_URL=f"127.0.0.1:{port}"), "key", stop))
    await asyncio.sleep(0.2)
    assert not guarding.done()
    stop.set()
    await asyncio.wait_for(guarding, 5)


async def test_a_repository_without_models_ends_it(tmp_path: Path) -> None:
    wrong = settings(TRITON_URL="127.0.0.1:1", MODEL_REPOSITORY=str(tmp_path))
    with pytest.raises(ConfigurationError, match="at least one model"):
        await guard(wrong, "key", asyncio.Event())


@pytest.mark.parametrize(("url", "message"), [("", "TRITON_URL"), ("triton", "host:port")])
def test_a_server_without_an_address_is_told(tmp_path: Path, url: str, message: str) -> None:
    write_private(tmp_path / "admin.key", b"key")
    with pytest.raises(ConfigurationError, match=message):
        run_guard(settings(TRITON_URL=url), tmp_path / "admin.key")


def test_a_key_for_everybodys_eyes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_bytes(b"key")
    (tmp_path / "admin.key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="secret"):
        run_guard(settings(TRITON_URL="127.0.0.1:8001"), tmp_path / "admin.key")
