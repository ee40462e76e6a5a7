"""A worker is ready when all that a study needs is there, the newest model included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from client.errors import ClientError, ConfigurationError, Transient
from client.jobqueue.memory import MemoryQueue
from client.jobs import Priority
from client.ledger.records import ServedModel
from client.worker.readiness import Readiness
from tests.ledgers import served

pytestmark = pytest.mark.contract


class Parts(MemoryQueue):
    """Pipeline, ledger and queue, any of which may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.models: Sequence[ServedModel] = (served(2),)
        self.away: set[str] = set()
        self.deep_looks = 0

    def _answer(self, part: str) -> None:
        if part in self.away:
            raise Transient(f"The {part} is away (as the test wants it)")

    async def check(self) -> None:
        self.deep_looks += 1
        self._answer("vault")

    async def serving(self) -> Sequence[ServedModel]:
        self._answer("model server")
        return self.models

    async def ping(self) -> None:
        self._answer("ledger")

    async def size(self) -> Mapping[Priority, int]:
        self._answer("queue")
        return await super().size()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("1", "2", "configs"):
        (tmp_path / "brain_mr_net" / name).mkdir(parents=True)
    return tmp_path


def looking(parts: Parts, repository: Path, deep_s: float = 60.0) -> Readiness:
    return Readiness(parts, parts.ping, parts, repository, deep_s=deep_s)


@pytest.mark.parametrize("part", ["model server", "ledger", "queue", "vault"])
async def test_it_is_ready_only_with_every_part(part: str, repository: Path) -> None:
    parts = Parts()
    readiness = looking(parts, repository, deep_s=0.0)
    await readiness.check()
    parts.away = {part}
    with pytest.raises(Transient, match=part):
        await readiness.check()
    parts.away = set()
    await readiness.check()


async def test_vault_and_store_are_looked_at_now_and_then_and_again_while_away(
    repository: Path,
) -> None:
    parts = Parts()
    parts.away = {"vault"}
    readiness = looking(parts, repository)
    for _ in range(2):
        with pytest.raises(Transient):
            await readiness.check()
    parts.away = set()
    for _ in range(3):
        await readiness.check()
    assert parts.deep_looks == 3


@pytest.mark.parametrize("version", [1, 3])
async def test_another_version_in_service_is_not_ready(version: int, repository: Path) -> None:
    parts = Parts()
    parts.models = (served(version),)
    with pytest.raises(Transient, match=f"Expected version 2 of brain_mr .* got {version}"):
        await looking(parts, repository).check()


async def test_a_repository_without_the_model_is_an_error(tmp_path: Path) -> None:
    readiness = looking(Parts(), tmp_path)
    with pytest.raises(ConfigurationError, match="Cannot read"):
        await readiness.check()
    (tmp_path / "brain_mr_net" / "configs").mkdir(parents=True)
    with pytest.raises(ClientError, match="has no version"):
        await readiness.check()
