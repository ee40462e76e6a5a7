from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from tritonclient.utils import InferenceServerException

from client.errors import ClientError, ConfigurationError, Transient
from client.triton import installation
from client.triton.inference import TritonModelSettings
from client.triton.installation import (
    Installation,
    clear_shared_memory,
    find_installation,
    link_stub,
    shared_memory_prefix,
)
from client.triton.server import TritonSettings, server_command
from client.triton.statuses import status_of, translate

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def test_the_server_listens_on_loopback_only_and_keeps_its_models_to_the_key_holder() -> None:
    settings = TritonSettings(REPOSITORY).resolved()
    argv = server_command(settings).argv
    assert "--grpc-address=127.0.0.1" in argv
    assert "--metrics-address=127.0.0.1" in argv
    assert "--allow-http=false" in argv
    assert "--load-model=brain_mr" in argv
    assert "--model-config-name=cpu" in argv
    flag = "--grpc-restricted-protocol="
    restricted = [a.removeprefix(flag).split(":") for a in argv if a.startswith(flag)]
    assert restricted == [
        ["model-repository,trace,logging", f"admin-key={settings.admin_key}"],
        ["shared-memory,statistics", f"worker-key={settings.worker_key}"],
    ]


def test_only_requests_that_are_traced_already_get_spans_of_the_server() -> None:
    settings = TritonSettings(REPOSITORY).resolved()
    assert not any("trace-config" in argument for argument in server_command(settings).argv)
    traced = replace(settings, otlp_endpoint="http://here:4318/")
    flag = "--trace-config="
    told = [one.removeprefix(flag) for one in server_command(traced).argv if one.startswith(flag)]
    assert {"mode=opentelemetry", "rate=0", "level=TIMESTAMPS"} <= {*told}
    assert "opentelemetry,url=http://here:4318/v1/traces" in told


def test_the_keys_are_random_and_never_shown() -> None:
    settings = TritonSettings(REPOSITORY).resolved()
    other = TritonSettings(REPOSITORY)
    keys = {settings.admin_key, settings.worker_key, other.admin_key, other.worker_key}
    assert len(keys) == 4
    call = TritonModelSettings(settings.grpc_url, worker_key=settings.worker_key)
    for shown in (repr(settings), repr(server_command(settings)), repr(call)):
        assert not any(key in shown for key in keys)


def test_settings_resolve_once_and_stay() -> None:
    settings = TritonSettings(REPOSITORY).resolved()
    assert settings.models == ("brain_mr",)
    assert settings.grpc_port != settings.metrics_port
    assert settings.resolved() == settings


def test_the_servers_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUNSFIELD_SECRET", "x")
    env = server_command(TritonSettings(REPOSITORY).resolved()).env
    assert "HOUNSFIELD_SECRET" not in env
    assert env["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_only_the_cpu_profile_can_be_embedded() -> None:
    with pytest.raises(ConfigurationError, match="cpu"):
        server_command(TritonSettings(REPOSITORY, profile="gpu").resolved())


def test_a_model_without_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lung_ct"):
        TritonSettings(REPOSITORY, models=("lung_ct",)).resolved()
    with pytest.raises(ConfigurationError, match="at least one model"):
        TritonSettings(tmp_path).resolved()


def test_a_missing_server_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install --no-deps nvidia-pytriton"):
        find_installation()


def test_the_stub_is_linked_again_and_again(tmp_path: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = tmp_path / "python_backend_stubs" / version / "triton_python_backend_stub"
    stub.parent.mkdir(parents=True)
    stub.write_text("stub")
    backend = tmp_path / "backends" / "python"
    backend.mkdir(parents=True)
    here = Installation(tmp_path, Path(sys.executable))
    link_stub(here)
    first = (backend / stub.name).lstat().st_ino
    link_stub(here)
    assert (backend / stub.name).lstat().st_ino == first
    (backend / stub.name).unlink()
    (backend / stub.name).symlink_to(tmp_path / "gone")
    link_stub(here)
    assert (backend / stub.name).read_text() == "stub"
    assert [path.name for path in backend.iterdir()] == [stub.name]


def test_a_python_without_stub_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no stub for Python"):
        link_stub(Installation(tmp_path, Path(sys.executable)))


def test_only_dead_servers_lose_their_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "SHARED_MEMORY", tmp_path)
    living = tmp_path / f"{shared_memory_prefix(os.getpid())}a"
    dead = tmp_path / f"{shared_memory_prefix(2**22 + 1)}a"
    other = tmp_path / "triton_python_backend_shm_region_1"
    for region in (living, dead, other):
        region.touch()
    assert clear_shared_memory() == 1
    assert sorted(tmp_path.iterdir()) == sorted([living, other])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("UNAVAILABLE", Transient),
        ("INTERNAL", Transient),
        ("DEADLINE_EXCEEDED", Transient),
        ("CANCELLED", Transient),
        ("UNKNOWN", Transient),
        ("NOT_FOUND", ConfigurationError),
        ("INVALID_ARGUMENT", ConfigurationError),
        ("UNAUTHENTICATED", ConfigurationError),
        ("UNIMPLEMENTED", ConfigurationError),
    ],
)
def test_errors_are_told_apart_by_status(status: str, kind: type[ClientError]) -> None:
    error = InferenceServerException(msg="text that nobody reads", status=f"StatusCode.{status}")
    assert status_of(error) == status
    assert status_of(AioRpcError(StatusCode[status], Metadata(), Metadata())) == status
    assert isinstance(translate(error, "infer"), kind)
    assert "nobody reads" not in str(translate(error, "infer"))


def test_an_error_without_status_is_worth_another_try() -> None:
    assert isinstance(translate(InferenceServerException(msg="?"), "infer"), Transient)
