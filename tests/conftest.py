"""What tests of several kinds share: the served models and one real Triton for the whole run."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from client.triton.embedded import EmbeddedTriton
from client.triton.server import TritonSettings
from preprocess.spec import ModelSpec, load_model_spec
from tests.networks import write_network

REPOSITORY = Path(__file__).parents[1] / "model_repository"
NETWORK = Path("brain_mr_net", "1", "model.onnx")


@pytest.fixture(scope="session")
def brain_mr() -> ModelSpec:
    """The description of the model brain_mr."""
    return load_model_spec(REPOSITORY / "brain_mr" / "model.yaml")


@pytest.fixture(scope="session")
def random_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model repository with a small random network: quick to load, uses every class."""
    repository = tmp_path_factory.mktemp("models") / "model_repository"
    shutil.copytree(REPOSITORY, repository, ignore=shutil.ignore_patterns("*.onnx", "__pycache__"))
    write_network(repository / NETWORK)
    return repository


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def triton_server(
    random_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EmbeddedTriton]:
    """A real Triton server that serves ``random_repository``."""
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    async with EmbeddedTriton(TritonSettings(random_repository), log) as server:
        yield server
