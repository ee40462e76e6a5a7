"""Build a strongly typed engine, the same for TensorRT and TensorRT for RTX: ONNX ─▶ bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from export.errors import EngineError

__all__ = ("BatchProfile", "Built", "build_engine")


@dataclass(frozen=True)
class BatchProfile:
    """The shapes an engine is made for.

    Attributes:
        batch: Smallest, most frequent and largest batch.
        canvas: Size of the spatial axes; needed where the graph leaves them open.
    """

    batch: tuple[int, int, int]
    canvas: tuple[int, ...] | None = None

    def shapes(self, declared: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The input's shape for each batch.

        Args:
            declared: As the graph declares it, [batch, channels, *canvas], -1 where open.

        Raises:
            ValueError: The canvas is open in the graph and not given, or has another rank.
        """
        _, channels, *spatial = declared
        sizes = self.canvas or tuple(spatial)
        fits = len(sizes) == len(spatial) and all(
            size > 0 and axis in (-1, size) for axis, size in zip(spatial, sizes, strict=True)
        )
        if not fits:
            raise ValueError(f"expected a canvas that fits {spatial}, got {self.canvas}")
        return [(count, channels, *sizes) for count in self.batch]


@dataclass(frozen=True)
class Built:
    """An engine as bytes, how long it took, and what the compiler warned about."""

    plan: bytes
    seconds: float
    warnings: tuple[str, ...]


def build_engine(
    api: ModuleType,
    path: Path,
    profile: BatchProfile | None,
    configure: Callable[[Any], None],
) -> Built:
    """Compiles an ONNX file whose types say in what it is computed.

    Args:
        api: The module ``tensorrt`` or ``tensorrt_rtx_bindings``.
        path: The file.
        profile: Shapes; None only where the graph leaves none open.
        configure: Sets further options on the ``IBuilderConfig``.

    Raises:
        EngineError: An operation the parser does not know, a missing or unfit profile, or a
            failed build, with what the compiler said.
    """
    started = time.perf_counter()
    log = _make_log(api)
    builder = api.Builder(log)
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(api, network, path, log)
    config = builder.create_builder_config()
    if profile:
        config.add_optimization_profile(_profile(builder, network, profile, path))
    configure(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{path}: {_title(api)} cannot build an engine: {_joined(log.errors)}")
    return Built(bytes(plan), time.perf_counter() - started, tuple(log.warnings))


def _parse(api: ModuleType, network: Any, path: Path, log: Any) -> None:
    if not path.is_file():
        raise EngineError(f"{path}: expected an ONNX file, there is none")
    parser = api.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = [_refusal(parser, error, path) for error in found] or log.errors
        raise EngineError(f"{path}: {_title(api)} cannot read it: {_joined(reasons)}")


def _refusal(parser: Any, error: Any, path: Path) -> str:
    if not error.node_operator():
        return str(error.desc())
    nodes = onnx.load(path, load_external_data=False).graph.node
    at = error.node()
    same = 0 <= at < len(nodes) and nodes[at].op_type == error.node_operator()
    domain = nodes[at].domain if same else ""
    where = (
        f"node {error.node_name()!r} (number {at}), operation {error.node_operator()} of domain "
        f"{domain or 'ai.onnx'}"
    )
    if parser.supports_operator(error.node_operator()):
        return f"{where}: {error.desc()}"
    return f"{where}: not an operation it knows; express it in standard ones"


def _joined(reasons: Sequence[str]) -> str:
    return "; ".join(reasons) or "it gave no reason"


def _profile(builder: Any, network: Any, profile: BatchProfile, path: Path) -> Any:
    made = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        image = network.get_input(index)
        try:
            made.set_shape(image.name, *profile.shapes(tuple(image.shape)))
        except ValueError as error:
            raise EngineError(f"{path}: input {image.name!r}: {error}") from error
    return made


def _make_log(api: ModuleType) -> Any:
    """A logger that keeps what the compiler says; its class can only be made from the module."""

    class Log(api.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == api.ILogger.WARNING:
                self.warnings.append(message)

    return Log()


def _title(api: ModuleType) -> str:
    name = "TensorRT for RTX" if "rtx" in api.__name__ else "TensorRT"
    return f"{name} {api.__version__}"
