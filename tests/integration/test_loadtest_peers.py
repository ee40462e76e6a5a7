"""Each installed peer serves our slices for real and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from client.dicom.readback import read_mask
from client.errors import ConfigurationError, Transient
from loadtest.accounting import read_cpu, spent
from loadtest.material import Material, load_material
from loadtest.peers.environments import Environment
from loadtest.peers.peer import SERVERS, Peer
from loadtest.peers.traditional import TraditionalScript
from loadtest.peers.work import infer
from preprocess.spec import load_model_spec
from tests.networks import write_network

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "model_repository" / "brain_mr"
NETWORK = ROOT / "model_repository" / "brain_mr_net" / "1" / "model.onnx"


@pytest.fixture(scope="module")
def material() -> Material:
    return load_material(ROOT / "samples" / "colin27_mr", load_model_spec(MODEL / "model.yaml"), 6)


def installed(name: str) -> Environment:
    environment = Environment.of(name)
    if not environment.is_current():
        pytest.skip(f"not installed: python -m loadtest.peers install {name}")
    return environment


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("")
    return Environment(requirements, tmp_path / "environment")


def test_an_environment_is_made_once_and_again_when_its_requirements_change(
    environment: Environment,
) -> None:
    assert not environment.is_current()
    assert environment.install()
    left = environment.folder / "left-over"
    left.touch()
    assert environment.require() == environment.python
    assert environment.python.exists()
    assert not environment.install()
    assert left.exists()

    environment.requirements.write_text("# changed\n")
    assert not environment.is_current()
    assert environment.install()
    assert not left.exists()


def test_an_interrupted_installation_is_not_taken_for_a_whole_one(
    environment: Environment,
) -> None:
    environment.requirements.write_text("nothing @ file:///does/not/exist\n")
    with pytest.raises(ConfigurationError, match=r"pip install .* ended with status"):
        environment.install()
    assert environment.python.exists()
    assert not environment.is_current()


@pytest.mark.parametrize("name", sorted(SERVERS))
async def test_a_peer_answers_with_the_references_masks_and_ends(
    name: str, material: Material, tmp_path: Path
) -> None:
    environment = installed(name)
    network = tmp_path / "model.onnx"
    write_network(network)
    expected = infer(network, "f32", material.images)

    log = tmp_path / "peer.log"
    peer = Peer(name, network, "f32", material, 2, log_path=log, environment=environment)
    async with peer:
        named = peer.processes()
        family = psutil.Process(named[name]).children(recursive=True)
        alone = await peer.run(1)
        before = read_cpu(named.values())
        many = await peer.run(4)
        cpu_s = spent(before, read_cpu(named.values()), named)

    assert peer.name == name
    assert named["client"] == os.getpid()
    assert (alone.slices, many.slices) == (2, material.slices)
    assert len(many.latencies_s) == material.slices
    assert min(many.latencies_s) > 0
    assert sum(cpu_s.values()) > 0
    assert (peer.masks == expected).mean() >= 0.999
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert not psutil.pid_exists(named[name])


async def test_a_server_that_cannot_start_says_why(material: Material, tmp_path: Path) -> None:
    environment = installed("fastapi")
    missing = tmp_path / "missing.onnx"
    log = tmp_path / "peer.log"
    peer = Peer("fastapi", missing, "f32", material, 2, log_path=log, environment=environment)
    with pytest.raises(ConfigurationError, match=r"missing\.onnx"):
        async with peer:
            pass


async def test_a_server_that_dies_is_noticed(material: Material, tmp_path: Path) -> None:
    environment = installed("fastapi")
    network = tmp_path / "model.onnx"
    write_network(network)
    log = tmp_path / "peer.log"
    peer = Peer("fastapi", network, "f32", material, 2, log_path=log, environment=environment)
    async with peer:
        (server,) = psutil.Process(peer.processes()["fastapi"]).children()
        server.kill()
        with pytest.raises(Transient, match="fastapi"):
            await peer.run(2)


async def test_the_traditional_script_segments_a_study(material: Material, tmp_path: Path) -> None:
    environment = installed("monai_script")
    weights = ROOT / "training" / "weights" / "brain_mr.safetensors"
    expected = material.plan.restore(infer(NETWORK, "f32", material.images))

    script = TraditionalScript(MODEL / "model.yaml", weights, material, tmp_path, environment)
    async with script:
        work = await script.run(1)
        pid = script.processes()["script"]

    assert work.slices == material.slices
    assert list(work.stages_s) == ["read, transform", "infer", "invert", "write"]
    assert 0 < sum(work.stages_s.values()) <= work.latencies_s[0]
    mask = read_mask(script.segmentation, material.series)
    assert (mask == expected).mean() >= 0.999
    assert not psutil.pid_exists(pid)
