"""A local stack for a while: in a folder of its own, on free ports, gone with its parent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from client.addresses import free_ports
from client.settings import Settings, load_settings
from client.stack import control

__all__ = ("scratch_stack",)

_EMBEDDED = (
    "keys",
    "kek",
    "ledger_url",
    "vault_url",
    "store_url",
    "queue_url",
    "triton_url",
    "token_jwks",
)


@contextlib.contextmanager
def scratch_stack(home: Path, **changes: Any) -> Iterator[Settings]:
    """Start every part embedded in ``home``, and stop it at the end.

    The stack also ends when this process is killed. The folder is the caller's to remove.

    Args:
        home: A folder with a short path: the queue's socket lies in it.
        changes: Settings that differ from those in force, by field name.

    Yields:
        The settings that senders use to call this stack.

    Raises:
        ConfigurationError: A part is missing or did not start.
    """
    gateway = f"127.0.0.1:{free_ports(1)[0]}"
    blank = dict.fromkeys(_EMBEDDED, "")
    chosen = {**blank, "home": str(home), "gateway": gateway, **changes}
    settings = replace(load_settings(), **chosen).resolved()
    with control.launch(settings, with_parent=True) as supervisor:
        try:
            control.until_ready(settings, supervisor)
            yield settings
        finally:
            control.stop(settings)
