"""Everything that takes part in a run, started and stopped together.

per precision: repository ─▶ raw engine │ Triton, ensemble │ local stack, whole way │ peers' servers
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from client.settings import Settings
from client.stack.scratch import scratch_stack
from client.triton.embedded import EmbeddedTriton
from client.triton.inference import TritonModel, TritonModelSettings
from client.triton.server import TritonSettings
from loadtest.alternatives import Alternatives, open_peer, open_script
from loadtest.clienttier import ClientTier
from loadtest.engine import RawEngine, served_network
from loadtest.enlarged import enlarge
from loadtest.ensemble import Ensemble
from loadtest.gpu import GpuEnsemble
from loadtest.journey import WholeWay
from loadtest.large import LargeStudy
from loadtest.loads import ENSEMBLE, GPU, RAW, SCRIPT, WHOLE, has_peers
from loadtest.material import Material, load_material
from loadtest.memory import MemoryWatcher
from loadtest.options import Options
from loadtest.report import Engine
from loadtest.repositories import ServedRepository, repository_of
from loadtest.urgent import UrgentStudies
from loadtest.ways import Way
from preprocess.spec import ModelSpec, load_model_spec

__all__ = ("Cast", "open_cast")

WORKER_KEY = "benchmark"
"""Any will do, as the server asks for none; with one, slices travel by shared memory."""


@dataclass(frozen=True, eq=False)
class Cast:
    """Who takes part.

    Attributes:
        spec: The model.
        material: The study that every way segments.
        ways: By name and precision.
        engines: The precisions that are served.
        server: Name and version of the inference server.
        watcher: Samples memory.
        tier: The client tier's steps; None in a quick run, as the next two.
        large: A large study by itself.
        urgent: STAT studies.
    """

    spec: ModelSpec
    material: Material
    ways: Mapping[tuple[str, str], Way]
    engines: tuple[Engine, ...]
    server: str
    watcher: MemoryWatcher
    tier: ClientTier | None = None
    large: LargeStudy | None = None
    urgent: UrgentStudies | None = None


@asynccontextmanager
async def open_cast(
    options: Options, alternatives: Alternatives, announce: Callable[[str], None]
) -> AsyncIterator[Cast]:
    """Starts everything that a run needs.

    Args:
        options: What to measure.
        alternatives: Who takes part besides ours.
        announce: Told what is being started.

    Raises:
        ConfigurationError: A part is missing or did not start, or the sample is not there.
    """
    spec = load_model_spec(options.repository / options.model / "model.yaml")
    material = load_material(options.sample, spec, options.slices)
    repositories = []
    for precision in options.precisions:
        announce(f"preparing {precision}")
        repositories.append(
            repository_of(precision, options.recipe, options.repository, options.work)
        )
    async with AsyncExitStack() as owned:
        home = Path(owned.enter_context(TemporaryDirectory(prefix="hounsfield-bench-")))
        stage = _Stage(options, spec, material, owned, home)
        for repository in repositories:
            announce(f"starting {repository.precision}")
            await stage.start_ours(repository)
            for name in alternatives.servers if has_peers(repository.precision) else ():
                announce(f"starting {name}, {repository.precision}")
                await stage.start_peer(name, repository)
        if alternatives.script:
            announce(f"starting the {SCRIPT}")
            script = await open_script(owned, options, material, home)
            stage.ways[SCRIPT, "f32"] = script
        if options.gpu_triton:
            await stage.connect_gpu()
        cast = stage.cast(owned.enter_context(MemoryWatcher()))
        if options.studies:
            announce("making a large study")
            cast = await stage.with_studies(cast, repositories[0])
        yield cast


@dataclass(eq=False)
class _Stage:
    """Where the parts come together.

    Attributes:
        options: What to measure.
        spec: The model.
        material: What every way segments.
        owned: Stops everything at the end.
        home: Folder for whatever a part writes.
        ways: Those that are started, by name and precision.
        engines: What they compute with.
        settings: Of the stack of each precision.
        server: Name and version of the inference server.
    """

    options: Options
    spec: ModelSpec
    material: Material
    owned: AsyncExitStack
    home: Path
    ways: dict[tuple[str, str], Way] = field(default_factory=dict)
    engines: list[Engine] = field(default_factory=list)
    settings: dict[str, Settings] = field(default_factory=dict)
    server: str = ""

    @property
    def alone(self) -> int:
        """Slices of a run with one in flight."""
        return min(self.options.slices_alone, self.material.slices)

    async def start_ours(self, repository: ServedRepository) -> None:
        """Adds raw engine, ensemble and whole way of a precision."""
        folder, precision = repository.folder, repository.precision
        settings = self.owned.enter_context(
            scratch_stack(self.home / precision, model_repository=str(folder.absolute()))
        )
        self.settings[precision] = settings
        server = await self.owned.enter_async_context(
            EmbeddedTriton(
                TritonSettings(folder, (self.spec.name,)), self.home / f"triton-{precision}.log"
            )
        )
        model = await self.owned.enter_async_context(
            TritonModel(self.spec, TritonModelSettings(server.url, worker_key=WORKER_KEY), folder)
        )
        identity = await model.identity()
        self.server = identity.server
        self.engines.append(
            Engine(precision, identity.engine, identity.network_sha256, repository.admitted)
        )
        served = served_network(folder, self.spec.name)
        self.ways[RAW, precision] = RawEngine(served, self.material.images, self.alone)
        self.ways[ENSEMBLE, precision] = Ensemble(model, server.pid, self.material, self.alone)
        self.ways[WHOLE, precision] = await self._sender(precision, self.material)

    async def start_peer(self, name: str, repository: ServedRepository) -> None:
        """Adds an alternative in a precision."""
        served = served_network(repository.folder, self.spec.name)
        peer = open_peer(name, served, self.material, self.alone, self.home)
        self.ways[name, repository.precision] = await self.owned.enter_async_context(peer)

    async def connect_gpu(self) -> None:
        """Adds the ensemble on the server that ``--gpu-triton`` names."""
        connection = TritonModelSettings(self.options.gpu_triton)
        model = await self.owned.enter_async_context(
            TritonModel(self.spec, connection, self.options.repository)
        )
        self.ways[GPU, "gpu"] = GpuEnsemble(model, self.material, self.alone)

    def cast(self, watcher: MemoryWatcher) -> Cast:
        """What came together so far."""
        return Cast(self.spec, self.material, self.ways, tuple(self.engines), self.server, watcher)

    async def with_studies(self, cast: Cast, repository: ServedRepository) -> Cast:
        """Adds what is measured study by study, on one precision's stack."""
        options, spec, precision = self.options, self.spec, repository.precision
        files = enlarge(options.sample, self.home / "large", options.large_shape)
        large = load_material(self.home / "large", spec)
        raw = RawEngine(served_network(repository.folder, spec.name), large.images, 1)
        # The client tier starts from its masks.
        await raw.run(options.slices_in_flight)
        small = load_material(options.sample, spec, options.urgent_slices)
        routine = load_material(options.sample, spec, options.routine_slices)
        return replace(
            cast,
            tier=ClientTier.of(files, raw.masks, spec, self.home / "results"),
            large=LargeStudy(
                raw, await self._sender(precision, large), large, precision, cast.watcher
            ),
            urgent=UrgentStudies(
                await self._sender(precision, small),
                await self._sender(precision, routine),
                small.slices,
                precision,
                options.urgent,
            ),
        )

    async def _sender(self, precision: str, material: Material) -> WholeWay:
        return await self.owned.enter_async_context(WholeWay(self.settings[precision], material))
