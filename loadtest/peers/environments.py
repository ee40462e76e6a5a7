"""One virtual environment per peer, made from its pinned requirements and kept until they change.

loadtest/peers/NAME/requirements.txt ─▶ venv + pip ─▶ build/peers/NAME ─▶ its Python
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from client.errors import ConfigurationError

__all__ = ("ENVIRONMENTS", "NAMES", "Environment")

PEERS = Path(__file__).parent
ENVIRONMENTS = PEERS.parents[1] / "build" / "peers"
"""Where environments lie unless another folder is named."""

NAMES = ("bentoml", "fastapi", "litserve", "monai_script", "mosec", "ray_serve")
"""Every peer, also the traditional script."""

_STAMP = "requirements.sha256"
_OUTPUT_TAIL = 2000


@dataclass(frozen=True)
class Environment:
    """The virtual environment of one peer.

    Attributes:
        requirements: The pinned packages.
        folder: Where the environment lies, or will.
    """

    requirements: Path
    folder: Path

    @classmethod
    def of(cls, peer: str, environments: Path = ENVIRONMENTS) -> Environment:
        """The environment of a peer.

        Args:
            peer: One of ``NAMES``.
            environments: The folder that holds all of them.

        Raises:
            ConfigurationError: There is no such peer.
        """
        if peer not in NAMES:
            raise ConfigurationError(f"Expected one of {', '.join(NAMES)}, got {peer!r}.")
        return cls(PEERS / peer / "requirements.txt", environments / peer)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> tuple[str, ...]:
        """The lines of the requirements: ``package==version``."""
        return tuple(self.requirements.read_text(encoding="utf-8").split())

    def is_current(self) -> bool:
        """Whether it was made completely, by this Python, from these requirements."""
        stamp = self.folder / _STAMP
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self._fingerprint()

    def install(self) -> bool:
        """Makes the environment, or makes it again, unless it is current.

        Returns:
            Whether there was anything to do.

        Raises:
            ConfigurationError: A package could not be installed; says what pip said.
        """
        if self.is_current():
            return False
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self._run(sys.executable, "-m", "venv", str(self.folder))
        self._run(str(self.python), "-m", "pip", "install", "-r", str(self.requirements))
        # Last, so that an interrupted installation is not taken for a whole one.
        (self.folder / _STAMP).write_text(self._fingerprint(), encoding="utf-8")
        return True

    def require(self) -> Path:
        """Its interpreter, for one who will not wait for an installation.

        Raises:
            ConfigurationError: It is not there or out of date.
        """
        if not self.is_current():
            raise ConfigurationError(
                f"Expected a current environment in {self.folder}; "
                f"run `python -m loadtest.peers install {self.requirements.parent.name}`."
            )
        return self.python

    def _fingerprint(self) -> str:
        # An environment's packages belong to one Python version.
        made_of = sys.version.encode() + self.requirements.read_bytes()
        return hashlib.sha256(made_of).hexdigest()

    @staticmethod
    def _run(*argv: str) -> None:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode != 0:
            raise ConfigurationError(
                f"`{' '.join(argv)}` ended with status {done.returncode}:\n"
                f"{done.stdout[-_OUTPUT_TAIL:]}"
            )
