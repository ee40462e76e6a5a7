"""A model as its users meet it: served by a real Triton, asked as the worker asks.

plan, stored values ─▶ requests ─▶ Triton ensemble ─▶ masks and other heads
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from export.children import child_environment
from export.errors import EngineError, MissingPart
from preprocess.plan import SeriesPlan
from preprocess.serving.configured import MASK, OUTPUTS
from preprocess.spec import ModelSpec, load_model_spec

__all__ = ("ServedModel", "request_inputs", "served", "translated")

SERVER = ("-m", "client.triton.serve")
NOT_INSTALLED = 69
"""Exit status of the server program without a Triton to run (EX_UNAVAILABLE)."""
SLICES_PER_REQUEST = 4
REQUEST_TIMEOUT_S = 120.0
SPARE_S = 60.0
TAIL_CHARACTERS = 3000


class ServedModel:
    """One model on a Triton server.

    Args:
        spec: The model.
        client: The connection.
        pid: The process whose children serve it; None where somebody else started the server.
    """

    def __init__(self, spec: ModelSpec, client: Any, pid: int | None = None) -> None:
        self.spec = spec
        self.client = client
        self.pid = pid

    @property
    def server(self) -> str:
        """Name and version of the server.

        Raises:
            EngineError: It does not answer.
        """
        with translated("server metadata"):
            answer = self.client.get_server_metadata()
        return f"{answer.name} {answer.version}"

    def segment(self, plan: SeriesPlan, stored: NDArray[np.int16]) -> NDArray[np.uint8]:
        """Masks of slices.

        Args:
            plan: The series' plan.
            stored: Stored values [slices, rows, columns].

        Returns:
            uint8 [slices, canvas rows, canvas columns].

        Raises:
            EngineError: The server does not answer, or refuses the slices.
        """
        return self.answer(plan, stored)[self.spec.tensors.mask]

    def answer(
        self, plan: SeriesPlan, stored: NDArray[np.int16], heads: Sequence[str] = ()
    ) -> dict[str, NDArray[Any]]:
        """Masks of slices, and other heads.

        Args:
            plan: The series' plan.
            stored: Stored values [slices, rows, columns], at least one slice.
            heads: Which heads beside the mask.

        Raises:
            EngineError: The server does not answer, or refuses the slices.
        """
        parts = [
            self._infer(plan, stored[start : start + SLICES_PER_REQUEST], heads)
            for start in range(0, len(stored), SLICES_PER_REQUEST)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _infer(
        self, plan: SeriesPlan, part: NDArray[np.int16], heads: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        mask = self.spec.tensors.mask
        with translated(f"inference with {self.spec.name}"):
            result = self.client.infer(
                self.spec.name,
                request_inputs(plan, part),
                outputs=[InferRequestedOutput(name) for name in (mask, *heads)],
                parameters={OUTPUTS: ",".join((MASK, *heads))},
                client_timeout=REQUEST_TIMEOUT_S,
            )
        return {name: result.as_numpy(name) for name in (mask, *heads)}


@contextmanager
def served(
    repository: Path, name: str, url: str | None = None, *, start_timeout_s: float = 120.0
) -> Iterator[ServedModel]:
    """Serves a model, or uses a server that does.

    Args:
        repository: Folder with the model's three folders.
        name: The model.
        url: host:port of a running server's gRPC service; None starts one with the cpu profile,
            which ends with the context, or with this process.
        start_timeout_s: How long the model may take to answer its first inference.

    Raises:
        MissingPart: There is no Triton to start; the message says what to install.
        EngineError: The model cannot be served.
    """
    spec = load_model_spec(repository / name / "model.yaml")
    if url is not None:
        with InferenceServerClient(url) as client:
            yield ServedModel(spec, client)
        return
    with (
        _server(repository, name, start_timeout_s) as (started, pid),
        InferenceServerClient(started) as client,
    ):
        yield ServedModel(spec, client, pid)


@contextmanager
def _server(repository: Path, name: str, start_timeout_s: float) -> Iterator[tuple[str, int]]:
    """The program as a child; its url and process id."""
    command = [sys.executable, *SERVER, "--repository", str(repository), "--model", name]
    command += ["--start-timeout-s", str(start_timeout_s)]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=child_environment(),
        )
        with child:
            try:
                yield _url(child, log, repository, start_timeout_s), child.pid
            finally:
                cast("IO[bytes]", child.stdin).close()


def _url(child: subprocess.Popen[bytes], log: IO[bytes], repository: Path, limit_s: float) -> str:
    """Waits for the one line that says where the server listens."""
    output = cast("IO[bytes]", child.stdout)
    # The program itself keeps to the limit; the rest is for its own start and end.
    ready, _, _ = select.select([output], [], [], limit_s + SPARE_S)
    line = output.readline() if ready else b""
    if line:
        return str(json.loads(line)["url"])
    if not ready:
        child.terminate()
    status = child.wait()
    log.seek(0)
    said = log.read().decode(errors="replace").strip()[-TAIL_CHARACTERS:]
    if status == NOT_INSTALLED:
        raise MissingPart(said)
    raise EngineError(f"{repository}: Triton cannot serve it. The end of what it said:\n{said}")


def request_inputs(plan: SeriesPlan, part: NDArray[np.int16]) -> list[InferInput]:
    """The inputs of one request.

    Args:
        plan: The series' plan.
        part: Stored values [slices, rows, columns].
    """
    each = [plan.tensors(stored) for stored in part]
    return [_input(name, np.stack([tensors[name] for tensors in each])) for name in each[0]]


def _input(name: str, array: NDArray[Any]) -> InferInput:
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of Triton's client as ours.

    Raises:
        EngineError: What was done has failed.
    """
    try:
        yield
    except InferenceServerException as error:
        raise EngineError(f"{what} failed: {error}") from error
