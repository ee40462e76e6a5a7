"""The alternatives that take part in a run: those that are installed, the others are named.

names ─▶ installed? ─▶ one server for each name and precision │ the traditional script
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.errors import ConfigurationError
from loadtest.loads import SCRIPT
from loadtest.material import Material
from loadtest.options import Options
from loadtest.peers.environments import NAMES, Environment
from loadtest.repositories import weights_of
from loadtest.ways import Way
from preprocess.serving.configured import ServedNetwork

if TYPE_CHECKING:
    from loadtest.peers.peer import Peer

__all__ = ("Alternatives", "choose", "open_peer", "open_script")

SCRIPT_PEER = "monai_script"


@dataclass(frozen=True)
class Alternatives:
    """Who takes part besides ours.

    Attributes:
        servers: Peers that serve slices.
        script: Whether the traditional script does.
        missing: Those that were asked for and are not installed.
    """

    servers: tuple[str, ...]
    script: bool
    missing: tuple[str, ...]


def choose(wanted: str) -> Alternatives:
    """Tells the installed ones from the others.

    Args:
        wanted: ``all``, ``none``, or names joined by commas.

    Raises:
        ConfigurationError: There is no such peer.
    """
    given: Sequence[str] = {"all": NAMES, "none": ()}.get(wanted, tuple(wanted.split(",")))
    unknown = sorted({*given} - {*NAMES})
    if unknown:
        raise ConfigurationError(
            f"Expected all, none or some of {', '.join(NAMES)} for --peers, got {unknown}."
        )
    installed = [name for name in given if Environment.of(name).is_current()]
    return Alternatives(
        servers=tuple(name for name in installed if name != SCRIPT_PEER),
        script=SCRIPT_PEER in installed,
        missing=tuple(
            SCRIPT if name == SCRIPT_PEER else name for name in given if name not in installed
        ),
    )


def open_peer(
    name: str, served: ServedNetwork, material: Material, slices_alone: int, home: Path
) -> Peer:
    """A peer's server with the raw engine's network and precision, at settings of its own.

    Args:
        name: Of ``Alternatives.servers``.
        served: What the raw engine runs.
        material: What to segment.
        slices_alone: How many slices a run with one in flight takes.
        home: Folder for its log.
    """
    from loadtest.peers.peer import Peer  # its client is needed only where peers take part

    log = home / f"{name}-{served.precision}.log"
    return Peer(
        name,
        served.path.absolute(),
        str(served.precision),
        material,
        slices_alone=slices_alone,
        log_path=log,
    )


async def open_script(
    owned: contextlib.AsyncExitStack, options: Options, material: Material, home: Path
) -> Way:
    """Starts the traditional script with the model that the recipe was made from.

    Raises:
        ConfigurationError: It did not start, or the recipe names no weights.
    """
    from loadtest.peers.traditional import TraditionalScript

    folder = home / "script"
    folder.mkdir()
    script = TraditionalScript(
        (options.repository / options.model / "model.yaml").absolute(),
        weights_of(options.recipe),
        material,
        folder,
    )
    return await owned.enter_async_context(script)
