from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from client.settings import load_settings
from client.triton import container
from client.triton.container import ADMIN_KEY, ARGUMENTS, WORKER_KEY

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def _prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Path]:
    """What the init container leaves in both folders, with the settings of the base."""
    for name in ("server", "worker"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setenv("HOUNSFIELD_MODEL_REPOSITORY", str(REPOSITORY))
    options = ["--server", str(folder / "server"), "--worker", str(folder / "worker")]
    assert container.main(["prepare", *options]) == 0
    return json.loads((folder / "server" / ARGUMENTS).read_bytes()), folder / "worker"


def test_the_worker_reads_its_half_as_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, worker = _prepared(tmp_path, monkeypatch)
    key = load_settings({"HOUNSFIELD_SECRETS": str(worker)}).triton_worker_key
    assert f"--grpc-restricted-protocol=shared-memory,statistics:worker-key={key}" in arguments
    administration = [a for a in arguments if ":admin-key=" in a]
    assert len(administration) == 2
    assert not any(key in argument for argument in administration)


def test_the_watchdog_reads_the_key_of_administration_which_the_worker_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, worker = _prepared(tmp_path, monkeypatch)
    key = (tmp_path / "server" / ADMIN_KEY).read_text()
    opened = "model-repository,trace,logging"
    assert f"--grpc-restricted-protocol={opened}:admin-key={key}" in arguments
    assert [path.name for path in worker.iterdir()] == [WORKER_KEY]


def test_only_their_owner_reads_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepared(tmp_path, monkeypatch)
    server, worker = tmp_path / "server", tmp_path / "worker"
    for path in (server / ARGUMENTS, server / ADMIN_KEY, worker / WORKER_KEY):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_pod_has_its_own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = _prepared(tmp_path / "one", monkeypatch)
    other, _ = _prepared(tmp_path / "other", monkeypatch)
    assert len(set(one) ^ set(other)) == 2 * 3


def test_grpc_stays_inside_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, _ = _prepared(tmp_path, monkeypatch)
    assert {"--grpc-address=127.0.0.1", "--grpc-port=8001"} <= set(arguments)
    assert {"--http-port=8000", "--metrics-port=8002"} <= set(arguments)


def test_a_repository_without_models_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOUNSFIELD_MODEL_REPOSITORY", str(tmp_path))
    options = ["--server", str(tmp_path), "--worker", str(tmp_path)]
    assert container.main(["prepare", *options]) == 78
    assert "at least one model" in capsys.readouterr().err
