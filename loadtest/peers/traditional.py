"""The traditional script as a way: a child process that does one study at a time.

DICOM files ─folder▶ MONAI ▶ torch, float32, eager ▶ highdicom ─▶ DICOM SEG
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from client.errors import ConfigurationError, Transient
from loadtest.material import Material
from loadtest.peers.children import Child
from loadtest.peers.environments import PEERS, Environment
from loadtest.ways import Work

__all__ = ("TraditionalScript",)

ROOT = PEERS.parents[1]
READY = b"READY\n"


class TraditionalScript:
    """Segments the same study again and again; an async context manager that owns the process.

    The process stays, so neither its imports nor the loading of the network count, which a script
    that is started for each study pays every time.

    Args:
        model: The model's description.
        weights: The network's weights, safetensors.
        material: The study.
        folder: An empty folder for the script's input, output and log.
        environment: Where its packages lie; None means where they are installed to.
    """

    name = "traditional script"

    def __init__(
        self,
        model: Path,
        weights: Path,
        material: Material,
        folder: Path,
        environment: Environment | None = None,
    ) -> None:
        self._model = model
        self._weights = weights
        self._material = material
        self._study = folder / "study"
        self._result = folder / "segmentation.dcm"
        self._environment = environment or Environment.of("monai_script")
        self._child = Child(folder / "script.log")
        self.segmentation = b""
        """The DICOM SEG of the last study."""

    async def __aenter__(self) -> Self:
        """Starts the process and waits until it has loaded everything.

        Raises:
            ConfigurationError: Its environment is not installed, or it did not start.
        """
        python = self._environment.require()
        self._study.mkdir()
        for file in self._material.files:
            (self._study / file.name).symlink_to(file.resolve())
        argv = ("-m", "loadtest.peers.monai_script.run", str(self._model), str(self._weights))
        variables = {"PYTHONPATH": str(ROOT)}
        await self._child.start((str(python), *argv), variables, talks=True)
        try:
            if await self._child.read_line() != READY:
                raise ConfigurationError(
                    f"The script did not start. The end of its log:\n{self._child.log_tail()}"
                )
        except BaseException:
            await self._child.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._child.stop()

    def processes(self) -> Mapping[str, int]:
        """The script; this process only waits."""
        return {"client": os.getpid(), "script": self._child.pid}

    async def run(self, in_flight: int) -> Work:
        """Segments one study; see ``Way.run``.

        Args:
            in_flight: Makes no difference: the script knows one study at a time.

        Raises:
            Transient: The script ended.
        """
        began = time.perf_counter()
        await self._child.write_line(f"{self._study}\t{self._result}\n".encode())
        answer = await self._child.read_line()
        if not answer:
            raise Transient(f"The script ended. The end of its log:\n{self._child.log_tail()}")
        study_s = time.perf_counter() - began
        self.segmentation = self._result.read_bytes()
        return Work(self._material.slices, (study_s,), json.loads(answer))
